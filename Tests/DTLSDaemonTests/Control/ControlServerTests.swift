import ControlProtocol
import Glibc
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

/// The control socket in a loop of its own, and clients that do what they should not.
@Suite struct ControlServerTests {
    private let folder: TestFolder
    private let loop: EventLoop
    private let server: ControlServer
    private let path: String

    init() throws {
        folder = try TestFolder()
        loop = try EventLoop()
        server = ControlServer(loop: loop)
        path = folder.file("control.sock")
        server.onRequest = { command, reply in
            if case .status = command { reply.succeed(CloseResult(count: 7)) }
        }
        try server.commit(server.prepare(ControlConfiguration(path: path)))
        server.open()
    }

    private let status = "{\"version\":1,\"command\":\"status\"}\n"
    private let answer = #"{"ok":true,"result":{"count":7},"version":1}"#

    /// Runs the loop until a line has come.
    private func line(of client: StreamClient) throws -> String {
        var bytes: [UInt8] = []
        for _ in 0..<1_000 {
            try loop.poll(timeout: .milliseconds(5))
            switch client.read() {
            case .bytes(let new): bytes += new
            case .nothing: continue
            case .end: return "end after: " + String(decoding: bytes, as: UTF8.self)
            }
            if bytes.last == 10 { return String(decoding: bytes.dropLast(), as: UTF8.self) }
        }
        return "nothing after: " + String(decoding: bytes, as: UTF8.self)
    }

    private func turn(_ count: Int = 20) throws {
        for _ in 0..<count { try loop.poll(timeout: .milliseconds(1)) }
    }

    @Test func `a client is answered, and others beside it`() throws {
        let clients = try (0..<5).map { _ in try StreamClient(to: path) }
        for client in clients { client.send(status) }
        for client in clients { #expect(try line(of: client) == answer) }
        clients[0].send(status + status)
        var answers = try line(of: clients[0])
        if answers == answer { answers += try "\n" + line(of: clients[0]) }
        #expect(answers == "\(answer)\n\(answer)")
    }

    @Test func `one client too many is told so, and others have their places again when some have gone`() throws {
        var clients = try (0..<ControlServer.maximumClients).map { _ in try StreamClient(to: path) }
        try turn()
        let late = try StreamClient(to: path)
        #expect(try line(of: late).contains(#""code":"busy""#))
        clients.removeAll()
        try turn()
        let next = try StreamClient(to: path)
        next.send(status)
        #expect(try line(of: next) == answer)
    }

    @Test func `a hundred connections that say nothing leave the daemon as it was`() throws {
        do {
            let crowd = try (0..<100).map { _ in
                let client = try StreamClient(to: path)
                try turn(1)
                return client
            }
            try turn()
            #expect(server.clientCount == ControlServer.maximumClients)
            #expect(crowd.count { $0.read() != .nothing } == 100 - ControlServer.maximumClients)
        }
        try turn()
        #expect(server.clientCount == 0)
        let client = try StreamClient(to: path)
        client.send(status)
        #expect(try line(of: client) == answer)
    }

    @Test func `a client that never reads is sent one answer at most, and keeps nobody from theirs`() throws {
        server.onRequest = { _, reply in
            reply.succeed(ReloadResult(file: String(repeating: "x", count: 2_000_000), warnings: []))
        }
        let deaf = try StreamClient(to: path)
        for _ in 0..<1_000 { deaf.send(status) }
        try turn()
        server.onRequest = { _, reply in reply.succeed(CloseResult(count: 7)) }
        let client = try StreamClient(to: path)
        client.send(status)
        #expect(try line(of: client) == answer)
    }

    @Test func `a flood without a line feed is refused after 64 KiB`() throws {
        let client = try StreamClient(to: path)
        let chunk = [UInt8](repeating: UInt8(ascii: "x"), count: 65_536)
        var sent = 0
        for _ in 0..<200 {
            guard let count = client.send(chunk) else { break }
            sent += count
            try loop.poll(timeout: .milliseconds(1))
        }
        #expect(sent < 4_000_000)
        #expect(try line(of: client).contains("longer than 65536 bytes"))
    }

    @Test(arguments: [
        "\u{0}\u{0}\u{0}", "[[[[[[[[[[[[[[[[[[[[[[[[", "{\"version\":1,\"command\":\"\u{0}\"}", "\u{feff}{}",
    ])
    func `garbage is answered with what is wrong with it`(_ text: String) throws {
        let client = try StreamClient(to: path)
        client.send(text + "\n" + status)
        #expect(try line(of: client).contains(#""code":"bad_request""#))
    }

    @Test func `who is neither root nor the daemon nor in the group is not obeyed`() {
        func isAllowed(_ user: UInt32, _ groups: [UInt32], group: UInt32? = 20) -> Bool {
            ControlServer.isAllowed(UnixPeer(user: user, groups: groups), user: 10, group: group)
        }
        #expect(isAllowed(0, [5]) && isAllowed(10, [5]))
        #expect(isAllowed(11, [5, 20]))
        #expect(!isAllowed(11, [5, 10]))
        #expect(!isAllowed(11, [20], group: nil))
    }

    @Test func `the socket of a process that is gone is replaced, and one that answers is not`() throws {
        let other = ControlServer(loop: loop)
        #expect(throws: SystemError("bind", path, errno: EADDRINUSE)) {
            _ = try other.prepare(ControlConfiguration(path: path))
        }
        server.close(keepsFile: true)
        try other.commit(other.prepare(ControlConfiguration(path: path, mode: 0o600)))
        other.onRequest = { _, reply in reply.succeed(CloseResult(count: 8)) }
        other.open()
        let client = try StreamClient(to: path)
        client.send(status)
        #expect(try line(of: client).contains("8"))
        other.close(keepsFile: false)
        #expect(access(path, F_OK) != 0)
    }

    @Test func `what is no socket stays where it is`() throws {
        let file = try folder.write("text", to: "file")
        #expect(throws: SystemError("bind", file, errno: EEXIST)) {
            _ = try server.prepare(ControlConfiguration(path: file))
        }
        #expect(folder.read("file") == "text")
        #expect(throws: SystemError("bind", folder.file("none/socket"), errno: ENOENT)) {
            _ = try server.prepare(ControlConfiguration(path: folder.file("none/socket")))
        }
    }

    @Test func `a reload moves the socket and changes who may use it`() throws {
        func mode(_ path: String) -> UInt32? {
            var status = stat()
            return stat(path, &status) == 0 ? status.st_mode & 0o777 : nil
        }
        #expect(mode(path) == 0o660)
        try server.commit(server.prepare(ControlConfiguration(path: path, mode: 0o600)))
        #expect(mode(path) == 0o600)
        let new = folder.file("other.sock")
        let plan = try server.prepare(ControlConfiguration(path: new))
        #expect(mode(path) == 0o600 && mode(new) == 0o660)
        server.discard(plan)
        #expect(mode(new) == nil)
        try server.commit(server.prepare(ControlConfiguration(path: new)))
        #expect(mode(path) == nil)
        let client = try StreamClient(to: new)
        client.send(status)
        #expect(try line(of: client) == answer)
        try server.commit(server.prepare(ControlConfiguration(path: "")))
        #expect(mode(new) == nil && server.path == nil)
    }

    @Test func `a successor goes on with the socket without a moment in which there is none`() throws {
        let passed = try #require(server.descriptor)
        let socket = try FileDescriptor.withBorrowed(passed.number) { borrowed throws(SystemError) in
            try borrowed.duplicate()
        }
        let successor = ControlServer(loop: loop)
        successor.adopt(socket, at: passed.path)
        successor.onRequest = { _, reply in reply.succeed(CloseResult(count: 8)) }
        try successor.commit(successor.prepare(ControlConfiguration(path: path)))
        let first = try StreamClient(to: path)
        first.send(status)
        #expect(try line(of: first) == answer)
        server.close(keepsFile: true)
        let second = try StreamClient(to: path)
        second.send(status)
        successor.open()
        #expect(try line(of: second).contains("8"))
    }
}
