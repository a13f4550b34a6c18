import Foundation
import TestSupport

/// A booted systemd of the test's own, with the daemon installed in it: see lab/lab.
final class Lab {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    struct Output: Sendable {
        let status: Int32
        /// Standard output and standard error.
        let text: String
    }

    private static let script = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "lab/lab").path

    /// Why no lab can run on this machine, or `nil`.
    static let obstacle: String? = {
        do {
            let output = try executeAtOnce([script, "probe"])
            return output.status == 0 ? nil : output.text.trimmingCharacters(in: .whitespacesAndNewlines)
        } catch {
            return "\(error)"
        }
    }()

    /// The daemon to test: $DTLSD_BINARY, else the one that was built beside this test.
    static func binary() throws -> String {
        if let given = ProcessInfo.processInfo.environment["DTLSD_BINARY"] { return given }
        let beside = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
        let candidates = [
            beside.appending(path: "dtlsd").path,
            URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../.build/debug/dtlsd")
                .standardized.path,
        ]
        guard let found = candidates.first(where: { FileManager.default.isExecutableFile(atPath: $0) }) else {
            throw Failure(description: "no dtlsd among \(candidates): run `swift build`, or set DTLSD_BINARY")
        }
        return found
    }

    private let directory: URL
    /// There while it is booted: a systemd has some thirty of the 128 inotify instances of root.
    private var place: Claim?

    /// Makes a lab; it is booted by ``boot()``, when its files are in place.
    init() async throws {
        directory = FileManager.default.temporaryDirectory.appending(path: "dtlsd-lab-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        try await Self.succeed([Self.script, "create", directory.path, Self.binary()])
    }

    deinit {
        // A test that has not stopped its lab has failed already.
        if place != nil { _ = try? Self.executeAtOnce([Self.script, "stop", directory.path]) }
        try? FileManager.default.removeItem(at: directory)
    }

    func boot() async throws {
        while place == nil {
            for number in 1...4 where place == nil { place = Claim("dtlsd-test-lab-\(number)") }
            if place == nil { try await Task.sleep(for: .milliseconds(100)) }
        }
        try await Self.succeed([Self.script, "boot", directory.path])
    }

    /// Shuts the lab down; an error when any process is left.
    func stop() async throws {
        defer { place = nil }
        try await Self.succeed([Self.script, "stop", directory.path])
    }

    /// Runs a shell command in the lab, as root.
    func run(_ command: String) async throws -> Output {
        try await Self.execute([Self.script, "run", directory.path, "sh", "-c", command])
    }

    /// Runs a shell command in the lab that has to succeed, and returns what it says, without the last newline.
    @discardableResult
    func succeed(_ command: String) async throws -> String {
        let output = try await run(command)
        guard output.status == 0 else {
            let journal = try await run("journalctl --no-pager -o short-monotonic -u 'dtlsd*' -n 40").text
            throw Failure(description: "\(command): exit status \(output.status)\n\(output.text)\n\(journal)")
        }
        return output.text.trimmingCharacters(in: .newlines)
    }

    /// Tries until a command's output is as expected; what it waits for is caused by others, so there is a deadline.
    func wait(for command: String, until isExpected: (String) -> Bool) async throws {
        let deadline = ContinuousClock.now + .seconds(60)
        while true {
            let text = try await run(command).text.trimmingCharacters(in: .newlines)
            if isExpected(text) { return }
            guard ContinuousClock.now < deadline else {
                throw Failure(description: "\(command) still says '\(text)' after a minute")
            }
            try await Task.sleep(for: .milliseconds(50))
        }
    }

    /// Writes a file of the lab, with its folders; it is there before the lab boots and while it runs.
    func write(_ text: String, to path: String, mode: Int = 0o644) throws {
        let url = directory.appending(path: "root" + path)
        try FileManager.default.createDirectory(
            at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
        try Data(text.utf8).write(to: url)
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: url.path)
    }

    /// Runs a shell command outside, in the folder that is the lab's root file system.
    func prepare(_ command: String) async throws {
        try await Self.succeed(["/bin/sh", "-ec", "cd \"$0\"; \(command)", directory.appending(path: "root").path])
    }

    private static func succeed(_ arguments: [String]) async throws {
        let output = try await execute(arguments)
        guard output.status == 0 else {
            throw Failure(description: "\(arguments.joined(separator: " ")): \(output.status)\n\(output.text)")
        }
    }

    /// Runs a program on a thread of its own: the few threads of the tests are for those that have something to do.
    private static func execute(_ arguments: [String]) async throws -> Output {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread { continuation.resume(with: Result { try executeAtOnce(arguments) }) }
        }
    }

    private static func executeAtOnce(_ arguments: [String]) throws -> Output {
        let process = Process()
        process.executableURL = URL(filePath: arguments[0])
        process.arguments = Array(arguments.dropFirst())
        process.standardInput = FileHandle.nullDevice
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        try process.run()
        let data = try pipe.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return Output(status: process.terminationStatus, text: String(decoding: data, as: UTF8.self))
    }
}

/// What the tests have in common: a certificate as an ACME client keeps it, a configuration, a client.
extension Lab {
    /// Makes the next certificate of a name, with a key that only root can read, and points the `live` links to it.
    func renew(_ name: String, commonName: String) async throws {
        try await prepare(
            """
            umask 077
            archive=etc/letsencrypt/archive/\(name) live=etc/letsencrypt/live/\(name)
            mkdir -p $archive $live
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj '/CN=\(commonName)' \
                -keyout $archive/privkey-\(commonName).pem -out $archive/fullchain-\(commonName).pem
            for file in fullchain privkey; do
                ln -sfn ../../archive/\(name)/$file-\(commonName).pem $live/$file.pem
            done
            """)
    }

    /// One `[service.NAME]` that echoes, whose certificate and key are credentials.
    static func service(_ name: String, listen: String?) -> String {
        """
        [service.\(name)]
        \(listen.map { "listen = [\($0)]" } ?? "")
        certificate = "credential:\(name).crt"
        private_key = "credential:\(name).key"
        handler = "echo"

        """
    }

    /// The drop-in that loads a service's credentials, as the unit's own comment tells operators to write it.
    static func credentials(_ name: String) -> String {
        """
        [Service]
        LoadCredential=\(name).crt:/etc/letsencrypt/live/\(name)/fullchain.pem
        LoadCredential=\(name).key:/etc/letsencrypt/live/\(name)/privkey.pem

        """
    }

    /// A lab with the service `echo` on port 4433, not booted yet.
    static func withEcho(listen: String? = #""127.0.0.1:4433", "[::1]:4433""#) async throws -> Lab {
        let lab = try await Lab()
        try await lab.renew("echo", commonName: "first")
        try lab.write("workers = 2\n" + service("echo", listen: listen), to: "/etc/dtlsd/dtlsd.toml")
        try lab.write(credentials("echo"), to: "/etc/systemd/system/dtlsd.service.d/credentials.conf")
        return lab
    }

    /// The common name of the certificate that is served; empty when there is no handshake. SIGTERM would not end the
    /// client, since this process' children inherit its blocked signals.
    func servedName(at address: String = "127.0.0.1:4433") async throws -> String {
        let text = try await run(
            """
            timeout -s KILL 60 openssl s_client -dtls1_2 -connect '\(address)' </dev/null 2>/dev/null |
                openssl x509 -noout -subject -nameopt multiline 2>/dev/null
            """
        ).text
        guard let equals = text.range(of: "commonName", options: .backwards),
            let value = text[equals.upperBound...].split(separator: "=").last
        else { return "" }
        return value.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    /// A file with the numbers of the service's processes; it is there as long as any of them is.
    var processes: String { "/sys/fs/cgroup/system.slice/dtlsd.service/cgroup.procs" }

    /// A property of dtlsd.service.
    func property(_ name: String) async throws -> String {
        try await succeed("systemctl show -P \(name) dtlsd.service")
    }

    /// The journal's entries of the daemon, each with its fields.
    func journal() async throws -> [[String: String]] {
        try await succeed("journalctl --no-pager -o json -u dtlsd.service").split(separator: "\n").map { line in
            let object = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any] ?? [:]
            return object.compactMapValues { $0 as? String }
        }
    }

    /// Waits until the journal has `count` such entries of the daemon, and returns them: it has them a moment after
    /// what they tell of.
    @discardableResult
    func logged(_ count: Int = 1, where isWanted: ([String: String]) -> Bool) async throws -> [[String: String]] {
        let deadline = ContinuousClock.now + .seconds(60)
        while true {
            let entries = try await journal()
            let found = entries.filter(isWanted)
            if found.count >= count { return found }
            guard ContinuousClock.now < deadline else {
                throw Failure(description: "\(found.count) of \(count) entries are in the journal: \(entries)")
            }
            try await Task.sleep(for: .milliseconds(50))
        }
    }
}

/// The identifiers of Sources/DTLSDaemon/Service/LogEvent.swift that operators search for.
enum MessageID {
    static let ready = "1e2929ec3e84490e82e031073b4fadb3"
    static let reloaded = "8db8f4a81c264caeaffe85f720c889c9"
    static let reloadFailed = "35e1481a3fe34d4d85b4a2b71adb0756"
    static let upgradeFailed = "bcbb0d70dfdb49c8985d176fd16eec59"
    static let stopping = "13f825680ba54e4f96e3d60c4eec8c3a"
    static let connectionOpened = "cde74a02b67b470ea9b7613559d68da5"
    static let connectionMoved = "0eadf9689ac84e2097722b4a94df7ba1"
    static let connectionClosed = "1db8a567d8224492ac040ea2b0d1006f"
}
