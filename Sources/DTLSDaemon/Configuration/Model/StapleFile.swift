import DTLSEngine
import LinuxSystem
import Primitives

/// A file with an OCSP response for one of the certificates of a service, or of one of its names.
struct StapleFile: Codable, Equatable, Sendable {
    var service: String
    /// The server name (SNI) that the certificates are for; `nil`: the service's own certificates.
    var host: String?
    /// The path of the file, absolute or relative to the working directory.
    var path: String
    /// The key that names the file, for messages (`service.echo.ocsp_staple`).
    var key: String
    /// Whether changes of the file are reported; otherwise it is read again at every ``interval``.
    var isWatched = true

    static let interval = Duration.seconds(30)

    mutating func watch(with watcher: FileWatcher?) throws(SystemError) {
        isWatched = false
        guard let watcher else { return }
        try watcher.add(path)
        isWatched = true
    }
}

/// Whether an OCSP response can be stapled.
enum StapleOutcome {
    /// It is stapled to the certificate with this index.
    case staples(Int, OCSPStaple)
    /// It is not stapled to any certificate, but the service can do without it.
    case unused(String)
    /// It is not an OCSP response, or not a successful one.
    case unusable(String)

    /// - Parameter certificates: the certificates of one server name, in PEM.
    static func of(_ response: [UInt8], for certificates: [String]) -> StapleOutcome {
        for (index, text) in certificates.enumerated() {
            guard let certificate = try? OwnCertificate(pem: text) else { continue }
            do throws(OCSPStapleError) {
                return .staples(index, try OCSPStaple(response, for: certificate))
            } catch {
                switch error {
                case .otherCertificate: continue
                case .malformed, .unsuccessful: return .unusable(error.description)
                case .notGood, .outOfDate, .selfSigned: return .unused(error.description)
                }
            }
        }
        return .unused(OCSPStapleError.otherCertificate.description)
    }
}

/// Reads the files of OCSP responses again, and nothing else of a configuration.
enum StapleRefresh {
    /// - Parameter now: the present time.
    /// - Returns: the configuration with the responses that are valid now. It has a warning for each file without a
    ///   valid response, whose previous response is kept until it expires, and for each response that has expired.
    static func refresh(
        _ configuration: Configuration, file: String, watcher: FileWatcher?, now: UnixTime
    ) -> Configuration {
        var result = configuration
        result.warnings = []
        func warn(_ key: String, _ message: String) {
            result.warnings.append(ConfigurationProblem(file: file, line: nil, key: key, message: message))
        }
        for index in result.staples.indices {
            // The watch comes first, so that no change is missed. A failure was reported when the configuration was
            // read.
            try? result.staples[index].watch(with: watcher)
            let staple = result.staples[index]
            guard let reason = take(staple, into: &result) else { continue }
            let path = ReadContext.quoted(staple.path)
            warn(staple.key, "\(path): \(reason); the previous response is stapled until it expires")
        }
        for index in result.services.indices {
            for host in result.services[index].tls.dropStaples(outdatedAt: now) {
                let table = ["service", result.services[index].name] + (host.map { ["name", $0] } ?? [])
                warn(
                    ReadContext.text(of: table + [VirtualHostSection.schema.name(of: \.files.staples)]) ?? "",
                    "the OCSP response has expired; nothing is stapled until there is a new one")
            }
        }
        return result
    }

    /// - Returns: why the file's response is not stapled, or `nil`.
    private static func take(_ staple: StapleFile, into configuration: inout Configuration) -> String? {
        guard let place = configuration.services.firstIndex(where: { $0.name == staple.service }) else { return nil }
        let response: [UInt8]
        do throws(UnreadableFile) { response = try FileContents(of: staple.path).bytes } catch { return error.message }
        return configuration.services[place].tls.withCertifiedKeys(of: staple.host) { keys -> String? in
            switch StapleOutcome.of(response, for: keys.map(\.certificate)) {
            case .staples(let index, let good):
                keys[index].staple = good
                return nil
            case .unused(let reason), .unusable(let reason): return reason
            }
        } ?? nil
    }
}

extension Configuration {
    /// The time at which the first of the active responses expires.
    var nextStapleExpiry: UnixTime? {
        services.flatMap { $0.tls.certifiedKeys + $0.tls.names.flatMap(\.certifiedKeys) }
            .compactMap { $0.staple?.expiry }.min()
    }
}

extension ServerSettings {
    /// - Returns: the result of `body`; `nil` when there is no such name.
    fileprivate mutating func withCertifiedKeys<Result>(
        of host: String?, _ body: (inout [CertifiedKey]) -> Result
    ) -> Result? {
        guard let host else { return body(&certifiedKeys) }
        guard let index = names.firstIndex(where: { $0.name == host }) else { return nil }
        return body(&names[index].certifiedKeys)
    }

    /// - Returns: the names whose responses have expired; `nil` stands for the service itself.
    fileprivate mutating func dropStaples(outdatedAt now: UnixTime) -> [String?] {
        var hosts: [String?] = []
        for host in [nil] + names.map(\.name) {
            let count = withCertifiedKeys(of: host) { keys in
                let outdated = keys.indices.filter { keys[$0].staple?.isValid(at: now) == false }
                for index in outdated { keys[index].staple = nil }
                return outdated.count
            }
            if count != 0 { hosts.append(host) }
        }
        return hosts
    }
}
