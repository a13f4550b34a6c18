import Glibc
import LinuxSystem
import Primitives

/// The handlers, with their names in the file.
enum HandlerName: String, CaseIterable {
    case echo, forward, exec, log
}

extension ServiceSection {
    /// Reads the handler with its settings, and reports the tables of other handlers.
    func handler(_ table: TableReader<ServiceSection>) -> HandlerConfiguration {
        guard let name = handler else { return .echo }
        let tables: [(HandlerName, PartialKeyPath<ServiceSection>)] = [
            (.forward, \.forward), (.exec, \.exec), (.log, \.log),
        ]
        for (other, property) in tables {
            // Of these, only "log" has a default for every key.
            if other == name, other != .log, !table.has(property) {
                table.report(
                    \.handler, "\"\(name.rawValue)\" needs its table; expected [service.NAME.\(name.rawValue)]")
            } else if other != name, table.has(property) {
                table.report(
                    property,
                    "this table has no effect with handler = \"\(name.rawValue)\"; expected \"\(other.rawValue)\"")
            }
        }
        switch name {
        case .echo: return .echo
        // Without its backends or its command, which is reported, another handler takes the place of this one.
        case .forward:
            for rule in forward.readRules { rule.warn(of: table) }
            return forward.configuration.map { .forward($0) } ?? .echo
        case .exec: return exec.configuration.map { .exec($0) } ?? .echo
        case .log: return .log(log.configuration)
        }
    }
}

// MARK: forward

/// `[service.NAME.forward]`
struct ForwardSection {
    fileprivate var backends: [Element<Backend>] = []
    fileprivate var sources: [Element<LocalSource>] = []
    fileprivate var interface: String?
    fileprivate var proxyProtocol = false
    fileprivate var parks = false
    fileprivate var healthCheck = HealthCheckSection()
    fileprivate var rules: [NamedTable<ForwardRuleSection>] = []
    /// What is in ``rules``, in the order of the file.
    fileprivate var readRules: [ForwardRuleSection.Read] = []

    /// - Returns: `nil` without backends.
    var configuration: ForwardConfiguration? {
        guard !allBackends.isEmpty else { return nil }
        return ForwardConfiguration(
            backends: NonEmpty(backends.map(\.value)), rules: readRules.compactMap(\.rule),
            sources: sources.map(\.value), interface: interface, proxyProtocol: proxyProtocol,
            parks: parks,
            healthCheck: healthCheck.configuration)
    }

    /// Those of the rules included.
    private var allBackends: [Backend] { backends.map(\.value) + readRules.flatMap { $0.backends.map(\.value) } }

    static let schema = Schema<Self>(
        {
            Key(
                "backend", \.backends, .backends, isRequired: { !$0.has(\.rules) },
                doc: "The backend that datagrams are passed to; several backends share the clients.")
            Key(
                table: "health_check", \.healthCheck, HealthCheckSection.schema,
                doc: "How the backends are checked, those of the rules included.")
            Key(
                tables: "rule", \.rules, "RULE", ForwardRuleSection.schema, initial: { ForwardRuleSection() },
                doc: "Where the datagrams of some clients are passed to. The first rule that is for a client counts.")
            Key(
                "source", \.sources, .sources, default: "none; the kernel chooses the address",
                doc:
                    "The addresses and ports of this machine from which UDP backends are sent to, which take turns.")
            Key(
                "interface", \.interface, .outgoingInterface, default: "none; the routes decide",
                doc: "The only network interface over which UDP backends are sent to (SO_BINDTODEVICE).")
            Key(
                "proxy_protocol", \.proxyProtocol, .flag,
                doc: "Whether each datagram to a backend begins with a PROXY protocol version 2 header.")
            Key(
                "park", \.parks, .flag,
                doc: "Whether a connection that gives its socket up (park_after) closes its backend socket too.")
        },
        check: { table, section in
            section.readRules = ForwardRuleSection.read(section.rules)
            section.checkBackends(table)
            section.checkSources(table)
        })

    /// Reports rules all of which refuse, where there is no backend beside them.
    private func checkBackends(_ table: TableReader<Self>) {
        guard !readRules.isEmpty, !table.has(\.backends), !readRules.contains(where: \.hasBackend) else {
            return
        }
        table.report(
            \.backends, "no rule has a backend, so that every client would be refused; expected one in a rule, or here")
    }

    /// Reports source addresses from which no backend can be sent to.
    private func checkSources(_ table: TableReader<Self>) {
        let udp = allBackends.compactMap { if case .udp(let address) = $0.address { address } else { nil } }
        // A host name may have addresses of either family.
        let hasName = allBackends.contains { $0.host != nil }
        table.check(sources, \.sources, against: udp, mayHaveOthers: hasName || allBackends.isEmpty, "backend", "udp:")
    }
}

extension ValueType where Value == [Element<Backend>] {
    static var backends: Self {
        Self("\"udp:HOST:PORT\", \"udp:[IPv6 ADDRESS]:PORT\" or \"unix:/PATH\"") { field in
            var found: [Element<Backend>] = []
            for text in field.strings {
                do throws(WrongBackend) {
                    let address = try address(text, field)
                    found.append(Element(number: text.number, value: Backend(name: text.value, address: address)))
                } catch {
                    field.report(element: text.number, error.message)
                }
            }
            reportDuplicates(found, field)
            return found
        }
    }

    private static func reportDuplicates(_ found: [Element<Backend>], _ field: Field) {
        for (index, item) in found.enumerated() {
            guard let earlier = found[..<index].first(where: { $0.value.address == item.value.address }) else {
                continue
            }
            let line = field.context.line(of: field.path, element: earlier.number).map { " (line \($0))" } ?? ""
            field.report(
                element: item.number,
                "\(ReadContext.quoted(item.value.name)) is the same backend as "
                    + "\(ReadContext.quoted(earlier.value.name))\(line); expected each of them once")
        }
    }

    private static func address(_ element: Element<String>, _ field: Field) throws(WrongBackend) -> Backend.Address {
        let text = element.value
        if text.hasPrefix("unix:") { return try unix(String(text.dropFirst(5))) }
        if text.hasPrefix("udp:") { return try udp(String(text.dropFirst(4)), element.number, field) }
        throw WrongBackend(message: "expected \(field.expected), found the string \(ReadContext.quoted(text))")
    }

    private static func unix(_ path: String) throws(WrongBackend) -> Backend.Address {
        guard path.hasPrefix("/") else {
            let found = ReadContext.quoted(path)
            throw WrongBackend(message: "expected an absolute path after \"unix:\", found \(found)")
        }
        guard path.utf8.count <= maximumUnixPathLength else {
            throw WrongBackend(
                message: "the path has \(path.utf8.count) bytes; expected at most \(maximumUnixPathLength), the longest"
                    + " path of a Unix socket")
        }
        return .unix(path)
    }

    private static func udp(
        _ text: String, _ element: Int, _ field: Field
    ) throws(WrongBackend) -> Backend.Address {
        guard let named = HostAndPort(text) else {
            let hasPort = text.lastIndex(of: ":").flatMap { HostAndPort.port(text[text.index(after: $0)...]) } != nil
            throw WrongBackend(
                message: hasPort
                    ? "expected \(field.expected), found the string \(ReadContext.quoted("udp:" + text))"
                    : "expected a port, 1 to 65535, at the end of \(ReadContext.quoted(text))")
        }
        do throws(HostAndPort.Mistake) {
            switch try named.checked(field, element: element) {
            case .address(let address): return .udp(address)
            case .name(let host, let port): return .name(host, port: port)
            }
        } catch {
            throw WrongBackend(message: error.message)
        }
    }
}

private struct WrongBackend: Error {
    var message: String
}

// MARK: exec

/// `[service.NAME.exec]`
struct ExecSection {
    fileprivate var command: [String] = []
    fileprivate var programsPerWorker = 100
    fileprivate var limits = ForeignProgram.Limits(openFiles: 1_024)

    /// - Returns: `nil` without a command.
    var configuration: ExecConfiguration? {
        NonEmpty(command).map {
            ExecConfiguration(command: $0, programsPerWorker: programsPerWorker, limits: limits)
        }
    }

    static let schema = Schema<Self> {
        Key(
            "command", \.command, .command, isRequired: { _ in true },
            doc: "The absolute path of the program, and its arguments. No shell is involved.")
        Key(
            "programs_per_worker", \.programsPerWorker, .integer(1...10_000),
            doc: "The number of the service's programs that one worker runs at the same time.")
        Key(
            "memory", \.limits.memory, .mebibytes, default: "none; the limit of dtlsd itself applies",
            doc: "The memory that a program may use (RLIMIT_AS), in MiB.")
        Key(
            "cpu_time", \.limits.processorTime, ValueType<Duration>.wholeSeconds(1...86_400).map { Int($0.seconds) },
            default: "none",
            doc: "The processor time that a program may use (RLIMIT_CPU), in seconds.")
        Key(
            "open_files", \.limits.openFiles, .integer(3...524_288),
            doc: "The number of file descriptors that a program may have open (RLIMIT_NOFILE).")
    }
}

extension ValueType where Value == Int {
    /// A number of MiB, which is converted to bytes.
    fileprivate static var mebibytes: Self { integer(1...1_048_576, "an integer of MiB").map { $0 << 20 } }
}

extension ValueType where Value == [String] {
    fileprivate static var command: Self {
        Self("an array of the program's absolute path and its arguments, [\"/usr/bin/PROGRAM\", \"ARGUMENT\"]") {
            field in
            let words = field.strings.map(\.value)
            if let program = words.first { check(program, field) }
            return words
        }
    }

    /// Checks the program. The loader runs as the same user as the workers, so they may execute what it may.
    private static func check(_ program: String, _ field: Field) {
        let found = ReadContext.quoted(program)
        guard program.hasPrefix("/") else { return field.report("expected \(field.expected), found \(found)") }
        var status = stat()
        guard stat(program, &status) == 0 else {
            let reason = String(cString: strerror(errno))
            let hint = program.contains(" ") ? "; expected \(field.expected)" : "; expected a program that is there"
            return field.report("cannot find the program \(found): \(reason)\(hint)")
        }
        guard status.st_mode & S_IFMT == S_IFREG else {
            return field.report("\(found) is not a regular file; expected a program")
        }
        if faccessat(AT_FDCWD, program, X_OK, AT_EACCESS) != 0 {
            field.report(
                "this user may not execute \(found) (\(String(cString: strerror(errno)))); expected a program"
                    + " that dtlsd's user may execute: chmod 755")
        }
    }
}

// MARK: log

/// `[service.NAME.log]`
struct LogSection {
    fileprivate var target = LogConfiguration.standard.target
    /// The format; `nil`: the default of the target.
    fileprivate var format: LogFormat?

    var configuration: LogConfiguration {
        let isSyslog = if case .syslog = target { true } else { false }
        return LogConfiguration(target: target, format: format ?? (isSyslog ? .syslog : .plain))
    }

    static let schema = Schema<Self> {
        Key("to", \.target, .logTarget, default: "\"journal\"", doc: "Where the datagrams are logged.")
        Key(
            "format", \.format, .word, default: "\"plain\"; with to = \"syslog\", \"syslog\"",
            doc: "The format of the datagrams: a text, or syslog messages.")
    }
}

extension ValueType where Value == LogTarget {
    fileprivate static var logTarget: Self {
        let text = ValueType<String>.string(
            "\"journal\", \"syslog\" or \"file:/PATH\"; the first two also with their socket, \"journal:/PATH\"")
        return Self(text.expected) { field in
            guard let text = text.read(field) else { return nil }
            let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            let path = parts.count > 1 ? String(parts[1]) : nil
            switch (parts[0], path) {
            case ("journal", _):
                return isSocket(path, field) ? .journal(socket: path ?? JournalSocket.standardPath) : nil
            case ("syslog", _):
                return isSocket(path, field) ? .syslog(socket: path ?? "/dev/log") : nil
            case ("file", let path?):
                check(file: path, field)
                return .file(path)
            default:
                field.reportMismatch(found: text)
                return nil
            }
        }
    }

    /// Whether a path can be that of a Unix socket. The socket does not have to exist yet.
    private static func isSocket(_ path: String?, _ field: Field) -> Bool {
        guard let path else { return true }
        if path.hasPrefix("/"), path.utf8.count <= maximumUnixPathLength { return true }
        field.report(
            "expected the absolute path of a Unix datagram socket, at most \(maximumUnixPathLength) bytes, after"
                + " the colon, found \(ReadContext.quoted(path))")
        return false
    }

    /// Checks the file. The loader runs as the same user as the workers, so they may write where it may.
    private static func check(file path: String, _ field: Field) {
        let expected = "expected the absolute path of a file, in a folder that dtlsd's user may write to"
        let found = ReadContext.quoted(path)
        guard path.hasPrefix("/"), !path.hasSuffix("/") else {
            return field.report("\(expected), after \"file:\", found \(found)")
        }
        var status = stat()
        if stat(path, &status) == 0 {
            guard status.st_mode & S_IFMT == S_IFREG else {
                return field.report("\(found) is not a regular file; \(expected)")
            }
            if faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0 {
                field.report("cannot write to \(found): \(String(cString: strerror(errno))); \(expected)")
            }
            return
        }
        let folder = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "/"
        if faccessat(AT_FDCWD, folder, W_OK | X_OK, AT_EACCESS) != 0 {
            field.report("cannot create \(found): \(String(cString: strerror(errno))); \(expected)")
        }
    }
}
