import Foundation
import LinuxSystem
import TestSupport

// What breaks around the daemon: files, the journal, backends, name servers, the clock, the network, and its clients.
extension FaultWorld {
    // MARK: Files

    /// Messages, keys and entries of its own log get lost then, and only then.
    func fillDisk() async throws {
        let client = try Program(tool(Self.ports.collect), in: folder)
        func logs(_ text: String) async throws {
            try await eventually("'\(text)' is in the log", within: 30, details: lastLines) {
                client.send(text + "\n")
                return network.read("messages").contains(text)
            }
        }
        let number = random.next()
        try await logs("before \(number)")
        try await network.run("dd if=/dev/zero of=\(network.disk)/ballast bs=4k status=none || true")
        try await speak(client, "while it is full")
        talk()
        let visitor = try newClient(.openSSL)
        try await visitor.exchange(within: 30)
        try await crashWorker("segfault", SIGSEGV)
        try await emptyLogs()
        try await network.run("rm \(network.disk)/ballast")
        try await logs("after \(number)")
        try await visitor.leave()
        let next = try newClient(.openSSL)
        try await next.exchange(within: 30)
        for file in ["keys.log", "dtlsd.errors"] {
            try await eventually("there is room for \(file) again") { !network.read(file).isEmpty }
        }
        try await next.leave()
        client.closeInput()
        _ = try await client.ended()
    }

    /// Says more than a file of a full disk or a socket's queue takes, each line as a message.
    private func speak(_ client: Program, _ text: String) async throws {
        for line in 0..<150 {
            client.send("\(text): \(line) \(String(repeating: ".", count: 200))\n")
            try await Task.sleep(for: .milliseconds(2))
        }
    }

    /// With good files, with those that somebody has not finished, and with keys that are no certificate's.
    func reloadInALoop() async throws {
        let good = configuration
        for (half, whole) in [("half.pem", server.certificate), ("half.key", server.privateKey)] {
            let text = try String(contentsOfFile: whole, encoding: .utf8)
            try folder.write(String(text.prefix(Int.random(in: 0..<text.count, using: &random))), to: half)
        }
        let wrong = [
            String(good.prefix(Int.random(in: 1..<good.count, using: &random))),
            good.replacing(".key\"", with: ".missing\""),
            good.replacing(server.privateKey, with: person.privateKey),
            good.replacing(server.privateKey, with: folder.file("half.key")),
            good.replacing(server.certificate, with: folder.file("half.pem")),
            "workers = \n" + good,
            good.replacing("keys.psk", with: "no.psk"),
        ]
        for round in 0..<10 {
            try daemon.reload(round % 3 == 2 ? good : wrong.randomElement(using: &random) ?? good)
            talk(1)
            try await Task.sleep(for: milliseconds(0...60))
        }
        try await reloadWell()
    }

    /// Has the daemon take up the good configuration.
    func reloadWell() async throws {
        try daemon.reload(configuration)
        let outcome = try await Tool.run(["reload", "--socket", folder.file("control")], in: folder)
        guard outcome.status == .exited(0) else {
            throw NeverHappened(description: "the good configuration is not taken up: \(outcome.errors)\(lastLines)")
        }
    }

    // MARK: The journal

    /// Nobody reads the journal's socket, and it fills.
    func blockJournal() async throws {
        _ = readJournal()
        try await whileSpeakingToJournal("nobody reads this") {
            try await Task.sleep(for: milliseconds(200...600))
        }
    }

    /// The socket is gone, and comes again.
    func restartJournal() async throws {
        try stopJournal()
        try await whileSpeakingToJournal("there is no journal") {
            try await Task.sleep(for: milliseconds(200...600))
            try startJournal()
        }
    }

    private func whileSpeakingToJournal(_ text: String, _ mend: () async throws -> Void) async throws {
        let client = try Program(tool(Self.ports.journal), in: folder)
        try await speak(client, text)
        talk()
        try await mend()
        try await eventually("entries come again", within: 30, details: lastLines) {
            client.send("somebody reads again\n")
            return readJournal() > 0
        }
        client.closeInput()
        _ = try await client.ended()
        _ = readJournal()
    }

    // MARK: Backends and names

    func interruptBackend() async throws {
        try await stopBackend()
        talk()
        try await Task.sleep(for: milliseconds(300...2_500))
        try startBackend(at: backendHost)
    }

    func slowBackend() async throws {
        isBackendSlow.isSet = true
        talk(1)
        try await Task.sleep(for: milliseconds(500...1_500))
        isBackendSlow.isSet = false
    }

    /// Its name has another address.
    func moveBackend() async throws {
        try await stopBackend()
        backendHost = backendHost == "127.0.0.1" ? "127.0.0.2" : "127.0.0.1"
        try startBackend(at: backendHost)
        try nameBackend(backendHost)
        talk()
    }

    func interruptNameServer() async throws {
        try await stopNameServer()
        talk()
        try await Task.sleep(for: milliseconds(500...1_500))
        try startNameServer(backendAt: backendHost)
    }

    /// It says an address for a time at which nobody answers.
    func misleadNameServer() async throws {
        try nameBackend("127.0.0.9")
        talk()
        try await Task.sleep(for: milliseconds(1_500...4_000))
        try nameBackend(backendHost)
    }

    /// Who is in its place does not know the questions: sends answers with other numbers, to other questions, cut off,
    /// and noise.
    func replaceNameServerByForger() async throws {
        try await stopNameServer()
        guard let place = SocketAddress(host: "127.0.0.1", port: 53) else { throw NoFreePort(host: "127.0.0.1") }
        let forger = Backend(on: [try network.socket(at: place)]) { received in
            let question = received.bytes
            guard question.count > 16 else { return [] }
            // RFC 1035, section 4.1: an answer to the question before it, with a pointer to its name: A, IN, one second,
            // 127.0.0.9.
            let record: [UInt8] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 9]
            var answer = question + record
            (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1)
            var (otherNumber, otherName) = (answer, answer)
            otherNumber[0] ^= 0x55
            otherName[13] ^= 1
            return [otherNumber, otherName, Array(answer.dropLast(9)), Array(question.reversed()), [0]]
        }
        talk()
        try await Task.sleep(for: milliseconds(1_500...3_000))
        try await forger.stop()
        try startNameServer(backendAt: backendHost)
    }

    // MARK: The clock

    /// It is set, clients go on and others come, and it is set back.
    func setClock(ahead seconds: Int64) async throws {
        try clock.set(ahead: seconds)
        for client in clients { try await client.exchange(within: 30) }
        // Not one with a certificate of its own, which has expired, or is not valid yet.
        let visitor = try newClient(.openSSL)
        try await visitor.exchange(within: 30)
        let there = Date.now.addingTimeInterval(Double(seconds)).formatted(.iso8601.year().month())
        try await eventually("the log is of \(there)", details: lastLines) { daemon.logs("\(there)-", "info worker") }
        try clock.set(ahead: 0)
        try await visitor.exchange(within: 30)
        try await visitor.leave()
    }

    // MARK: The network

    func narrowPath() async throws {
        try await network.set(mtu: 576)
        talk(1)
        // Certificates of both sides, in messages larger than the path. s_client would end with EMSGSIZE.
        let client = try newClient(.tool)
        try await client.exchange(within: 30)
        try await network.set(mtu: 1_500)
        try await client.exchange(within: 30)
        try await client.leave()
    }

    // MARK: Clients

    /// Comes back without its state from the port that it has had.
    func returnFromSamePort() async throws {
        let port = 20_000 + Int(random.next() % 10_000)
        let arguments = ["-bind", "10.77.0.2:\(port)"]
        for _ in 0..<3 {
            let client = try newClient(.openSSL, arguments)
            try await client.exchange(within: 30)
            try await client.vanish()
        }
        let last = try newClient(.openSSL, arguments)
        try await last.exchange(within: 30)
        try await last.leave()
    }

    func sendGarbage() async throws {
        guard let echo = SocketAddress(host: FaultNetwork.server, port: UInt16(Self.ports.echo)) else { return }
        var garbage = try Garbage(seed: random.next(), from: network)
        for _ in 0..<6 {
            garbage.send(50, to: echo)
            talk(1)
        }
        noteVanished(6)
    }
}

/// What a hostile sender sends: hellos without and with made-up cookies, hellos with their cookies and no word after them,
/// records of all types, and noise.
struct Garbage: Sendable {
    private var random: SeededGenerator
    private let sockets: [DatagramSocket]
    private var count = 0

    init(seed: UInt64, from network: FaultNetwork) throws {
        random = SeededGenerator(seed: seed)
        sockets = try (0..<8).map { _ in try network.clientSocket() }
    }

    mutating func send(_ count: Int, to place: SocketAddress) {
        for _ in 0..<count { send(to: place) }
        begin(at: place)
    }

    private mutating func send(to place: SocketAddress) {
        count += 1
        let socket = sockets[count % sockets.count]
        let hello = ClientHelloBytes()
        switch count % 5 {
        case 0: socket.send(hello.bytes(), to: place)
        case 1: socket.send(hello.bytes(cookie: bytes(32), number: 1), to: place)
        case 2:
            // RFC 6347, section 4.1, and a connection ID (25; RFC 9146).
            let type: UInt8 = [20, 21, 22, 23, 25][count / 5 % 5]
            socket.send([type, 0xfe, 0xfd, 0, 1] + bytes(8) + [0, 40] + bytes(48), to: place)
        case 3: socket.send(Array(hello.bytes().prefix(Int(random.next() % 100))), to: place)
        default: socket.send(bytes(Int(random.next() % 1_400)), to: place)
        }
    }

    /// Begins a handshake that does not go on.
    private func begin(at place: SocketAddress) {
        let hello = ClientHelloBytes()
        let socket = sockets[0]
        while socket.receiveAtOnce() != nil {}
        socket.send(hello.bytes(), to: place)
        guard let answer = socket.receive(), case .helloVerifyRequest(let cookie) = HelloAnswer(answer.bytes) else {
            return
        }
        socket.send(hello.bytes(cookie: cookie, number: 1), to: place)
    }

    private mutating func bytes(_ count: Int) -> [UInt8] {
        (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    }
}

/// A long way between one client and the daemon: each datagram takes some time in either direction.
final class SlowPath: Sendable {
    /// Where the client connects to.
    let address: SocketAddress
    private let isOver = SharedFlag()

    init(to server: SocketAddress, taking delay: Duration, in network: FaultNetwork) throws {
        let (front, back, isOver) = (try network.clientSocket(), try network.clientSocket(), isOver)
        address = front.local
        Thread.detachNewThread {
            var client: DatagramSocket.Sender?
            var onTheWay: [(due: ContinuousClock.Instant, bytes: [UInt8], isToServer: Bool)] = []
            while !isOver.isSet {
                DatagramSocket.wait(for: [front, back])
                let now = ContinuousClock.now
                while let (bytes, sender) = front.receiveAtOnce() {
                    client = sender
                    onTheWay.append((now + delay, bytes, true))
                }
                while let (bytes, _) = back.receiveAtOnce() { onTheWay.append((now + delay, bytes, false)) }
                let due = onTheWay.prefix { $0.due <= now }
                onTheWay.removeFirst(due.count)
                for datagram in due {
                    if datagram.isToServer {
                        back.send(datagram.bytes, to: server)
                    } else if let client {
                        front.send(datagram.bytes, to: client)
                    }
                }
            }
        }
    }

    deinit { isOver.isSet = true }
}
