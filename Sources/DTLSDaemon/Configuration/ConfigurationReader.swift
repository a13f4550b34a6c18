import Glibc
import LinuxSystem
import TOMLKit

/// Reads and checks a configuration file and all that it names: certificates, keys, secrets, interfaces, host names.
/// It may block on files and DNS, and belongs in the loader process and in `dtlsd --check`, nowhere else.
///
/// `config/dtlsd.toml` documents the keys.
enum ConfigurationReader {
    /// What the reader looks up of the process' environment.
    static var processEnvironment: [String: String] {
        var found: [String: String] = [:]
        for name in ["RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY", "SSL_CERT_FILE"] {
            if let value = getenv(name) { found[name] = String(cString: value) }
        }
        return found
    }

    /// - Parameters:
    ///   - file: its path; messages name the file so.
    ///   - environment: where RUNTIME_DIRECTORY, CREDENTIALS_DIRECTORY and SSL_CERT_FILE are looked up.
    ///   - watcher: is told of the files that are taken up again when they change, before they are read.
    /// - Throws: everything that is wrong, at once. Of a file that is not TOML, the first error alone.
    static func read(
        file: String, environment: [String: String] = processEnvironment, watcher: FileWatcher? = nil
    ) throws(ConfigurationProblems) -> Configuration {
        let text = try text(of: file)
        let lines = KeyLines(text)
        if !lines.refusals.isEmpty {
            throw ConfigurationProblems(
                problems: lines.refusals.map { .init(file: file, line: $0.line, key: nil, message: $0.message) })
        }
        let root = try parse(text, file)
        let reading = ReadContext(file: file, environment: environment, lines: lines, watcher: watcher)
        var configuration = configuration(root, reading)
        try reading.finish()
        configuration.staples = reading.staples
        configuration.warnings = reading.warnings.sorted { ($0.line ?? 0) < ($1.line ?? 0) }
        return configuration
    }

    private static func text(of file: String) throws(ConfigurationProblems) -> [UInt8] {
        let bytes: [UInt8]
        do throws(UnreadableFile) { bytes = try FileContents(of: file).bytes } catch {
            throw problem(file, nil, error.message)
        }
        // The parser takes a C string, which would end there.
        if let nul = bytes.firstIndex(of: 0) {
            throw problem(file, line(of: nul, in: bytes), "a NUL byte; expected a TOML file, in UTF-8")
        }
        guard String(validating: bytes, as: UTF8.self) != nil else {
            throw problem(file, firstInvalidLine(of: bytes), "bytes that are not UTF-8; expected a TOML file, in UTF-8")
        }
        return bytes
    }

    private static func line(of position: Int, in bytes: [UInt8]) -> Int {
        1 + bytes[..<position].count { $0 == UInt8(ascii: "\n") }
    }

    private static func firstInvalidLine(of bytes: [UInt8]) -> Int? {
        let lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        return lines.firstIndex { String(validating: $0, as: UTF8.self) == nil }.map { $0 + 1 }
    }

    private static func parse(_ text: [UInt8], _ file: String) throws(ConfigurationProblems) -> TOMLTable {
        do {
            return try TOMLTable(string: String(decoding: text, as: UTF8.self))
        } catch let error as TOMLParseError {
            let reason = error.description.split(whereSeparator: \.isNewline).joined(separator: " ")
            let place = error.source.begin
            throw problem(file, place.line, "not valid TOML (column \(place.column)): \(reason)")
        } catch {
            throw problem(file, nil, "not valid TOML: \(error)")
        }
    }

    private static func problem(_ file: String, _ line: Int?, _ message: String) -> ConfigurationProblems {
        ConfigurationProblems(problems: [.init(file: file, line: line, key: nil, message: message)])
    }

    private static func configuration(_ root: TOMLTable, _ reading: ReadContext) -> Configuration {
        let main = TableReader<MainKey>(root, at: [], reading)
        let workers = main.integer(.workers, 0...maximumWorkers, "an integer (0 is one per core)") ?? 0
        let tables = main.tables(.service, ServiceKey.self)
        let clientTables = main.tables(.client, ClientKey.self)
        if let tables, let clientTables, tables.isEmpty, clientTables.isEmpty {
            main.report(
                .service, "no service is configured; expected at least one table [service.NAME] or [client.NAME]")
        }
        let limits = LimitsReader.read(main.table(.limits, LimitsKey.self))
        let services = (tables ?? []).map { name, table in
            var result = ServiceReader(table, name: name).read()
            result.configuration.limits = LimitsReader.read(table.table(.limits, LimitsKey.self), within: limits)
            return result
        }
        let clients = (clientTables ?? []).map { ClientReader($0.table, name: $0.name).read() }
        TableName.reportCollisions(clients: clientTables ?? [], services: tables ?? [], reading)
        ConfiguredListener.reportCollisions(
            services.flatMap(\.listeners) + clients.flatMap(\.listeners), reading)
        let tickets = TicketsReader.read(main)
        return Configuration(
            workers: workers == 0 ? processorCount : workers,
            stopTimeout: main.duration(.stopTimeout, seconds: 0...600) ?? .seconds(5),
            logLevel: main.choice(.logLevel, of: LogLevel.allCases.map(\.rawValue), LogLevel.init(rawValue:)) ?? .info,
            cookieSecret: cookieSecret(main), tickets: tickets, keyLogFile: KeyLogFile.read(main),
            services: services.map { $0.configuration.withSessions(of: tickets) },
            clients: clients.map(\.configuration), limits: limits)
    }

    private static let maximumWorkers = 1_024

    private static var processorCount: Int {
        min(max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))), maximumWorkers)
    }

    /// The bytes of the file as they are: the cookie's HMAC takes a key of any length.
    private static func cookieSecret(_ main: TableReader<MainKey>) -> [UInt8]? {
        let expected = "the path of a file of 32 to 4096 random bytes"
        guard let bytes = main.contents(.cookieSecretFile, expected, secrecy: .owner) else { return nil }
        guard (32...4_096).contains(bytes.count) else {
            main.report(.cookieSecretFile, "expected \(expected), found \(bytes.count) bytes")
            return nil
        }
        return bytes
    }
}
