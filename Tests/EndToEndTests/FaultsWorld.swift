import Foundation
import LinuxSystem
import Synchronization
import TestSupport
import Testing

/// A daemon with all that it works with, the clients that use it, and the invariants that hold after each fault.
final class FaultWorld {
    let folder: TestFolder
    let network: FaultNetwork
    let server: Identity
    private let authority: Identity
    let person: Identity
    private(set) var daemon: Daemon
    private(set) var nameServer: Program
    private var backend: Backend?
    let isBackendSlow: SharedFlag
    /// A socket in the place of the journal's; `nil` while there is none.
    private var journal: DatagramSocket?
    /// What the daemon takes for the time of day.
    let clock: FaultClock
    /// What the daemon stores with the service manager.
    private let store: DescriptorStore
    let pauses: Pauses
    var random: SeededGenerator
    private(set) var clients: [FaultClient] = []
    private var clientCount = 0
    /// How many clients have gone without a word, and when: their connections may still be there.
    private var departures: [(time: ContinuousClock.Instant, count: Int)] = []
    private var vanished: Int {
        // `idle_timeout`, and a minute for a daemon that was stopped.
        departures.reduce(0) { $1.time > .now - .seconds(360) ? $0 + $1.count : $0 }
    }
    /// Those among them that have a socket to the backend, which a silent connection keeps.
    private var vanishedForwarded = 0
    /// Connections of each service that the main process has from the one before it.
    private var inherited: [String: Int] = [:]
    /// The address that the backend's name has.
    var backendHost: String
    /// While every client is silent.
    private var quietDescriptors: OpenDescriptors?
    /// Sockets that the main process opens for each listener once many clients come (`DecoySockets`).
    private static let decoysPerListener = 2
    private var firstMemory: [String: Int] = [:]

    static let ports = (echo: 5_684, strict: 5_685, keys: 5_686, forward: 5_687, collect: 5_688, journal: 5_689)
    static let key = "00112233445566778899aabbccddeeff"
    static let backendPort: UInt16 = 7_000
    static let workers = 2
    private static let listeners = 6

    init(seed: UInt64, pauses: Pauses) async throws {
        random = SeededGenerator(seed: seed)
        self.pauses = pauses
        let folder = try TestFolder()
        self.folder = folder
        network = try await FaultNetwork(in: folder)
        let maker = CertificateMaker(folder: folder)
        server = try await maker.selfSigned("server")
        authority = try await maker.selfSigned("authority")
        person = try await maker.issued("person", by: authority)
        try folder.write("fault:\(Self.key)\n", to: "keys.psk")
        journal = try DatagramSocket(atPath: folder.file("journal"))
        clock = try await FaultClock(in: folder)
        store = try DescriptorStore(in: folder)
        let (host, isSlow) = ("127.0.0.1", SharedFlag())
        (backendHost, isBackendSlow) = (host, isSlow)
        nameServer = try Self.startNameServer(network, folder, backendAt: host)
        backend = try Self.startBackend(network, at: host, isSlow)
        try network.linkToDisk("dtlsd.errors")
        daemon = try await Self.start(
            Self.configuration(folder, network, server, authority), in: folder, network, clock, store)
    }

    // MARK: Configuration

    var configuration: String { Self.configuration(folder, network, server, authority) }

    private static func configuration(
        _ folder: TestFolder, _ network: FaultNetwork, _ server: Identity, _ authority: Identity
    ) -> String {
        func service(_ name: String, _ port: Int, handler: String = "echo", _ more: String = "") -> String {
            """
            [service.\(name)]
            listen = "\(FaultNetwork.server):\(port)"
            certificate = "\(server.certificate)"
            private_key = "\(server.privateKey)"
            park_after = "1s"
            handshake_timeout = "10s"
            idle_timeout = "5m"
            handler = "\(handler)"
            \(more)

            """
        }
        return """
            workers = \(workers)
            control.path = "\(folder.file("control"))"
            key_log_file = "\(network.disk)/keys.log"
            resolver.servers = "127.0.0.1:53"

            """ + service("echo", ports.echo, "connection_id = 16")
                + service("strict", ports.strict, "ca = \"\(authority.certificate)\"")
                + service("keys", ports.keys, "[service.keys.psk]\nfile = \"\(folder.file("keys.psk"))\"")
                + service(
                    "forward", ports.forward, handler: "forward",
                    """
                    [service.forward.forward]
                    backend = "udp:backend.example:\(backendPort)"
                    [service.forward.forward.health_check]
                    send = "are you there?"
                    interval = 1
                    timeout = 1
                    fall = 2
                    rise = 1
                    """)
                + service(
                    "collect", ports.collect, handler: "log",
                    "[service.collect.log]\nto = \"file:\(network.disk)/messages\"")
                + service(
                    "journal", ports.journal, handler: "log",
                    "[service.journal.log]\nto = \"journal:\(folder.file("journal"))\"")
    }

    /// In the folder of the small disk, so that a core dump would be there, with its log.
    private static func start(
        _ configuration: String, in folder: TestFolder, _ network: FaultNetwork, _ clock: FaultClock,
        _ store: DescriptorStore
    ) async throws -> Daemon {
        try await Daemon.start(
            configuration, in: folder,
            environment: clock.environment.merging(store.environment) { $1 }.merging(["DTLSD_STAND_IN": "1"]) { $1 },
            prefix: network.prefix + (store.names.isEmpty ? [] : store.prefix)
                + ["prlimit", "--core=unlimited", "env", "--chdir=\(network.disk)"])
    }

    /// After the main process has died: with what it has stored.
    func restartDaemon() async throws {
        // The log of the one before would say that this one is ready.
        try await emptyLogs()
        daemon = try await Self.start(configuration, in: folder, network, clock, store)
        inherited = try await counters().mapValues { $0.sum("connections") }
    }

    /// Has the small disk empty again, as logrotate does. What the daemon has logged is kept elsewhere.
    func emptyLogs() async throws {
        let disk = network.disk
        try await network.run(
            """
            cat \(disk)/dtlsd.errors >>\(folder.file("dtlsd.history"))
            truncate -s 0 \(disk)/dtlsd.errors \(disk)/messages \(disk)/keys.log
            """)
    }

    // MARK: Behind the daemon

    private static func startNameServer(
        _ network: FaultNetwork, _ folder: TestFolder, backendAt host: String
    ) throws -> Program {
        try folder.write("\(host) backend.example\n", to: "hosts")
        return try Program(
            network.prefix + [
                "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--log-facility=-",
                "--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv", "--no-hosts", "--user=", "--group=",
                "--local=/example/", "--local-ttl=1", "--addn-hosts=\(folder.file("hosts"))",
            ], in: folder)
    }

    func stopNameServer() async throws {
        nameServer.signal(SIGTERM)
        _ = try await nameServer.ended()
    }

    func startNameServer(backendAt host: String) throws {
        nameServer = try Self.startNameServer(network, folder, backendAt: host)
    }

    private static func startBackend(_ network: FaultNetwork, at host: String, _ isSlow: SharedFlag) throws -> Backend {
        guard let address = SocketAddress(host: host, port: backendPort) else { throw NoFreePort(host: host) }
        return Backend(on: [try network.socket(at: address)]) { received in
            if isSlow.isSet { Thread.sleep(forTimeInterval: 0.3) }
            return [Array("\(received.client):".utf8) + received.bytes]
        }
    }

    func stopBackend() async throws {
        try await backend?.stop()
        backend = nil
    }

    func startBackend(at host: String) throws {
        backend = try Self.startBackend(network, at: host, isBackendSlow)
    }

    /// Has its name mean this address.
    func nameBackend(_ host: String) throws {
        try folder.write("\(host) backend.example\n", to: "hosts")
        nameServer.signal(SIGHUP)
    }

    func stopJournal() throws {
        journal = nil
        try FileManager.default.removeItem(atPath: folder.file("journal"))
    }

    func startJournal() throws { journal = try DatagramSocket(atPath: folder.file("journal")) }

    /// Takes what the journal's socket holds.
    func readJournal() -> Int {
        var count = 0
        while journal?.receiveAtOnce() != nil { count += 1 }
        return count
    }

    // MARK: Clients

    func address(_ port: Int) -> String { "\(FaultNetwork.server):\(port)" }

    /// `openssl s_client` that trusts the server.
    func openSSL(_ port: Int, _ arguments: [String] = []) -> [String] { openSSL(at: address(port), arguments) }

    private func openSSL(at place: String, _ arguments: [String] = []) -> [String] {
        network.clientPrefix + [
            "openssl", "s_client", "-dtls1_2", "-quiet", "-no_ign_eof", "-nbio", "-connect", place, "-CAfile",
            server.certificate, "-verify_return_error",
        ] + arguments
    }

    private func command(_ kind: FaultClient.Kind, _ path: SlowPath?) -> [String] {
        switch kind {
        case .openSSL: openSSL(Self.ports.echo)
        case .gnuTLS:
            network.clientPrefix
                + ["gnutls-cli", "--udp", "--insecure", "--port", "\(Self.ports.echo)", FaultNetwork.server]
        case .mutual: openSSL(Self.ports.strict, ["-cert", person.certificate, "-key", person.privateKey])
        case .presharedKey: openSSL(Self.ports.keys, ["-psk_identity", "fault", "-psk", Self.key])
        case .connectionID: tool(Self.ports.echo, ["--connection-id", "4"])
        case .forwarded: openSSL(Self.ports.forward)
        case .slow: openSSL(at: path.map { "\($0.address)" } ?? address(Self.ports.echo))
        case .tool: tool(Self.ports.strict, ["--cert", person.certificate, "--key", person.privateKey])
        }
    }

    /// `dtls connect`, which makes a message of each line, however fast they come.
    func tool(_ port: Int, _ arguments: [String] = []) -> [String] {
        network.clientPrefix + [Daemon.tool, "connect", "--insecure", "--quiet"] + arguments + [address(port)]
    }

    func newClient(_ kind: FaultClient.Kind, _ arguments: [String] = []) throws -> FaultClient {
        clientCount += 1
        var path: SlowPath?
        if kind == .slow, let echo = SocketAddress(host: FaultNetwork.server, port: UInt16(Self.ports.echo)) {
            path = try SlowPath(to: echo, taking: .milliseconds(150), in: network)
        }
        return try FaultClient(
            kind, "\(kind)-\(clientCount)", seed: random.next(), command: command(kind, path) + arguments, path: path,
            in: folder)
    }

    /// Has each worker open what it keeps open: its socket to the journal.
    func warmUp() async throws {
        let programs = try (0..<4).map { _ in try Program(openSSL(Self.ports.journal), in: folder) }
        for program in programs { program.send("hello\n") }
        var count = 0
        try await eventually("the journal has entries of all", within: 30, details: lastLines) {
            count += readJournal()
            return count >= programs.count
        }
        for program in programs { program.closeInput() }
        for program in programs { _ = try await program.ended() }
    }

    /// Has two clients of each kind.
    func fillUp() async throws {
        let new = try FaultClient.Kind.allCases.flatMap { kind in
            try (0..<max(0, 2 - clients.count { $0.kind == kind })).map { _ in try newClient(kind) }
        }
        clients += new
        for client in new { try await client.exchange(within: 30) }
    }

    /// Has a client go without a word, and another one come.
    func replaceClient() async throws {
        let index = Int(random.next() % UInt64(clients.count))
        let client = clients.remove(at: index)
        try await client.vanish()
        noteVanished()
        if client.kind == .forwarded { vanishedForwarded += 1 }
        try await fillUp()
    }

    /// So many more clients have gone, or may have, without a word.
    func noteVanished(_ count: Int = 1) { departures.append((.now, count)) }

    /// Traffic of all, of which nobody waits for an answer.
    func talk(_ count: Int = 3) { for client in clients { for _ in 0..<count { client.say() } } }

    // MARK: Invariants

    /// What holds whatever has happened.
    /// - Returns: the longest time that a client has waited for an answer.
    func check() async throws -> Duration {
        try await eventually("all processes are there", details: processes) {
            Set(daemon.workers.map { ProcessTable.name(of: $0) }).count == Self.workers
                && daemon.workers.count == Self.workers && helper("checker") != nil && helper("resolver") != nil
        }
        let longest = try await exchange()
        for client in clients {
            let wrong = client.wrong
            guard wrong.isEmpty else {
                throw NeverHappened(description: "\(client.name) hears what it has not said, or twice: \(wrong)")
            }
        }
        try await checkCounters()
        try await checkDescriptors()
        try checkMemory()
        try await emptyLogs()
        return longest
    }

    /// Has all clients say something until they are answered.
    /// - Returns: the longest time that one has waited, beside those that are far away.
    func exchange() async throws -> Duration {
        var longest = Duration.zero
        for client in clients {
            let wait = try await client.exchange(within: 30)
            if client.kind != .slow { longest = max(longest, wait) }
        }
        return longest
    }

    func helper(_ name: String) -> pid_t? {
        ProcessTable.children(of: daemon.program.pid).first { ProcessTable.name(of: $0) == "dtlsd: \(name)" }
    }

    private var processes: String {
        ProcessTable.children(of: daemon.program.pid).map { "\($0) \(ProcessTable.name(of: $0))" }.joined(
            separator: ", ")
            + "\n" + lastLines
    }

    /// The end of the daemon's log.
    var lastLines: String { String((folder.read("dtlsd.history") + daemon.program.errors).suffix(4_000)) }

    /// Connections that have begun have ended, or are there.
    private func checkCounters() async throws {
        var last = ""
        for _ in 0..<100 {
            last = ""
            for (name, counters) in try await counters() {
                let opened = counters.sum("connections_opened_total") + inherited[name, default: 0]
                let closed = counters.sum("connections_closed_total")
                let succeeded = counters["handshakes_total"]["full"] + counters["handshakes_total"]["resumed"]
                let present = counters.sum("connections") - counters["connections"]["handshaking"]
                if opened != closed + present || opened != succeeded + inherited[name, default: 0] {
                    last +=
                        "\(name): \(opened) opened, \(succeeded) handshakes that have succeeded, \(closed) closed,"
                        + " \(present) present\n"
                }
                let expected = clients.count { $0.service == name }
                if present < expected || present > expected + vanished {
                    last += "\(name): \(present) connections of \(expected) clients, and \(vanished) that vanished\n"
                }
            }
            if last.isEmpty { return }
            try await Task.sleep(for: .milliseconds(100))
        }
        throw NeverHappened(description: "the counters do not add up: \(last)\(lastLines)")
    }

    /// The counters of one service: by name, and by label, or "" where there is none.
    struct Counters {
        private var values: [String: [String: Int]] = [:]

        init(_ object: [String: Any]) {
            for (name, value) in object {
                if let number = value as? NSNumber { values[name] = ["": number.intValue] }
                if let labels = value as? [String: Any] {
                    values[name] = labels.compactMapValues { ($0 as? NSNumber)?.intValue }
                }
            }
        }

        subscript(name: String) -> Labels { Labels(values: values[name] ?? [:]) }
        func sum(_ name: String) -> Int { (values[name] ?? [:]).values.reduce(0, +) }

        struct Labels {
            fileprivate var values: [String: Int]
            subscript(label: String) -> Int { values[label] ?? 0 }
        }
    }

    private func counters() async throws -> [String: Counters] {
        let client = try StreamClient(to: folder.file("control"))
        client.send("{\"version\":1,\"command\":\"counters\"}\n")
        let answer = try JSONSerialization.jsonObject(with: Data(try await client.line().utf8))
        let result = try #require((answer as? [String: Any])?["result"] as? [String: Any])
        return try #require(result["services"] as? [String: [String: Any]]).mapValues(Counters.init)
    }

    /// What the workers and the main process have open: sockets, and all there is.
    private struct OpenDescriptors: Equatable {
        var ofWorkers: Int
        var ofMain: Int
        var socketsOfWorkers: Int
        var socketsOfMain: Int

        init(_ daemon: Daemon) {
            ofWorkers = daemon.workers.map(ProcessTable.openDescriptors).reduce(0, +)
            ofMain = ProcessTable.openDescriptors(of: daemon.program.pid)
            socketsOfWorkers = daemon.workersSockets.reduce(0, +)
            socketsOfMain = ProcessTable.openSockets(of: daemon.program.pid)
        }
    }

    /// Once all are silent, all connections are parked: no socket is left over, nor anything else.
    private func checkDescriptors() async throws {
        guard let quietDescriptors else {
            // For the first time: until nothing has changed for longer than connections are parked after.
            var (last, time) = (OpenDescriptors(daemon), ContinuousClock.now)
            try await eventually("the number of descriptors stays", within: 30) {
                let present = OpenDescriptors(daemon)
                if present != last { (last, time) = (present, .now) }
                return ContinuousClock.now - time > .seconds(3)
            }
            quietDescriptors = last
            return
        }
        let decoys = Self.decoysPerListener * Self.listeners
        // A connection that keeps its socket to a backend keeps what it was begun with, in which are the sessions of an
        // earlier configuration.
        let earlier = vanishedForwarded + clients.count { $0.kind == .forwarded }
        try await eventually(
            "all descriptors of connections are closed",
            within: 40, details: "\(OpenDescriptors(daemon)), and \(quietDescriptors) before\n\(processes)"
        ) {
            let present = OpenDescriptors(daemon)
            return present.socketsOfWorkers <= quietDescriptors.socketsOfWorkers + vanishedForwarded
                && present.ofWorkers <= quietDescriptors.ofWorkers + vanishedForwarded + earlier
                && present.socketsOfMain <= quietDescriptors.socketsOfMain + decoys
                && present.ofMain <= quietDescriptors.ofMain + decoys
        }
    }

    /// Kilobytes that no other process shares. (Slots are files that the main process and a worker share.)
    static func memory(of pid: pid_t) -> Int { ProcessTable.kilobytes("RssAnon", of: pid) }

    /// The processes whose memory and descriptors are looked at.
    var members: [(name: String, pid: pid_t)] {
        [("main", daemon.program.pid)]
            + daemon.workers.map { (ProcessTable.name(of: $0).replacing("dtlsd: ", with: ""), $0) }
    }

    private func checkMemory() throws {
        for (name, pid) in members {
            let memory = Self.memory(of: pid)
            guard let first = firstMemory[name] else {
                firstMemory[name] = memory
                continue
            }
            // One that is new has less; what one has cached for clients stays.
            guard memory <= max(first * 2, first + 16_384) else {
                throw NeverHappened(description: "\(name) has \(memory) kB, and \(first) at the beginning")
            }
        }
    }

    func stop() async throws {
        let pids = members.map(\.pid)
        try await daemon.stop()
        try await eventually("no process is left") { !pids.contains { ProcessTable.isRunning($0) } }
    }
}

extension FaultClient {
    /// The service that it uses.
    var service: String {
        switch kind {
        case .openSSL, .gnuTLS, .connectionID, .slow: "echo"
        case .mutual, .tool: "strict"
        case .presharedKey: "keys"
        case .forwarded: "forward"
        }
    }
}

final class SharedFlag: Sendable {
    private let flag = Mutex(false)
    var isSet: Bool {
        get { flag.withLock { $0 } }
        set { flag.withLock { $0 = newValue } }
    }
}

/// The time of day that a daemon is shown in the place of this machine's.
final class FaultClock: Sendable {
    private let file: String
    private let library: String

    init(in folder: TestFolder) async throws {
        library = folder.file("clock.so")
        file = folder.file("clock")
        let source = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Programs/clock.c").path
        try await Program.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], in: folder)
        try Data(count: 8).write(to: URL(filePath: file))
    }

    var environment: [String: String] { ["LD_PRELOAD": library, "FAULT_CLOCK": file] }

    func set(ahead seconds: Int64) throws {
        // In its place: processes have mapped it.
        let handle = try FileHandle(forUpdating: URL(filePath: file))
        try withUnsafeBytes(of: seconds) { try handle.write(contentsOf: Data($0)) }
    }
}
