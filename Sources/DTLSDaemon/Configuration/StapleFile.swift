import DTLSEngine
import LinuxSystem

/// A file with an OCSP response for one of the certificates of a service, or of one of its names.
struct StapleFile: Sendable, Equatable {
    var service: String
    /// The name (SNI) whose certificates these are; `nil`: the service's own.
    var host: String?
    /// Absolute, or relative to the working folder.
    var path: String
    /// The key that names it, for messages (`service.echo.ocsp_staple`).
    var key: String
}

/// What an OCSP response is good for.
enum StapleOutcome {
    /// It is stapled to this one of the certificates.
    case staples(Int, OCSPStaple)
    /// It is not stapled to any: nothing is wrong that would be a reason not to serve.
    case unused(String)
    /// It is no response at all, or the file holds something else.
    case unusable(String)

    /// - Parameter certificates: those of one name, in PEM.
    static func of(_ response: [UInt8], for certificates: [String]) -> StapleOutcome {
        for (index, text) in certificates.enumerated() {
            guard let certificate = try? OwnCertificate(pem: text) else { continue }
            do throws(OCSPStapleError) {
                return .staples(index, try OCSPStaple(response, for: certificate))
            } catch {
                switch error {
                case .otherCertificate: continue
                case .malformed, .unsuccessful: return .unusable(error.description)
                case .notGood, .outOfDate: return .unused(error.description)
                }
            }
        }
        return .unused(OCSPStapleError.otherCertificate.description)
    }
}

/// Reads the files of OCSP responses once more, and nothing else of a configuration.
enum StapleRefresh {
    /// - Returns: the configuration with the responses that are good now, and a warning for each file that is not: what
    ///   it held before stays.
    static func refresh(_ configuration: Configuration, file: String, watcher: FileWatcher?) -> Configuration {
        var result = configuration
        result.warnings = []
        for staple in configuration.staples {
            guard let reason = take(staple, into: &result, watcher) else { continue }
            result.warnings.append(
                ConfigurationProblem(
                    file: file, line: nil, key: staple.key,
                    message: "\(ConfigurationReading.quoted(staple.path)): \(reason); what was stapled before stays"))
        }
        return result
    }

    /// - Returns: why the file's response is not stapled, or `nil`.
    private static func take(
        _ staple: StapleFile, into configuration: inout Configuration, _ watcher: FileWatcher?
    ) -> String? {
        guard let place = configuration.services.firstIndex(where: { $0.name == staple.service }) else { return nil }
        do {
            try watcher?.add(staple.path)
            let response = try FileContents(of: staple.path).bytes
            return configuration.services[place].tls.withCertifiedKeys(of: staple.host) { keys in
                switch StapleOutcome.of(response, for: keys.map(\.certificate)) {
                case .staples(let index, let good):
                    keys[index].staple = good
                    return nil
                case .unused(let reason), .unusable(let reason): return reason
                }
            }
        } catch let error as UnreadableFile {
            return error.message
        } catch {
            return "\(error)"
        }
    }
}

extension ServerSettings {
    fileprivate mutating func withCertifiedKeys(
        of host: String?, _ body: (inout [CertifiedKey]) -> String?
    ) -> String? {
        guard let host else { return body(&certifiedKeys) }
        guard let index = names.firstIndex(where: { $0.name == host }) else { return nil }
        return body(&names[index].certifiedKeys)
    }
}
