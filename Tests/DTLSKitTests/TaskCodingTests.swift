import DTLSTransport
import LinuxSystem
import Primitives
import Testing

@testable import DTLSKit

/// What travels between a program and its tasks.
@Suite(.serialized) struct TaskCodingTests {
    /// Not kept: LeakSanitizer does not see what an enum's payload points to.
    private var value: TaskValue {
        [
            "null": nil, "yes": true, "number": -42, "half": 0.5, "text": "Hello ^_^", "list": [1, "two", [3]],
            "bytes": .bytes([0, 255]), "inner": ["sockFd": .sockFd(7)],
        ]
    }

    private func decode(_ bytes: [UInt8], descriptor: Int32) throws(MalformedBytes) -> TaskMessage {
        try bytes.withUnsafeBufferPointer { buffer throws(MalformedBytes) in
            try TaskMessage(decoding: UnsafeRawBufferPointer(buffer), descriptor: descriptor)
        }
    }

    @Test func `values arrive as they were sent`() throws {
        let handover = TaskMessage.Handover(
            server: "S", number: 9, hello: [3, 4], datagrams: [[1, 2], []], state: [5, 6], connectionID: [7, 8, 9])
        let (bytes, descriptor) = try TaskMessage.encode(value, handover: handover)
        #expect(descriptor == 7)
        guard case .value(let arrived, let along?) = try decode(bytes, descriptor: 12) else {
            Issue.record("it is no value any more")
            return
        }
        #expect(arrived["inner"]?["sockFd"]?.sockFd == 12, "the descriptor has a number of the receiver's")
        #expect(arrived["list"] == [1, "two", [3]])
        #expect(
            arrived["text"]?.string == "Hello ^_^" && arrived["number"]?.integer == -42
                && arrived["half"]?.double == 0.5)
        #expect(arrived["yes"]?.bool == true && arrived["null"] == .null && arrived["bytes"]?.bytes == [0, 255])
        #expect(arrived["none"] == nil && arrived["text"]?.integer == nil)
        #expect(along.state == [5, 6] && along.connectionID == [7, 8, 9])
        #expect(along.server == "S" && along.number == 9 && along.hello == [3, 4] && along.datagrams == [[1, 2], []])
        // The descriptor could not be received.
        guard case .value(let without, _) = try decode(bytes, descriptor: -1) else {
            Issue.record("without its descriptor it is no value any more")
            return
        }
        #expect(without["inner"]?["sockFd"] == .null)
    }

    @Test func `what is said of clients at other addresses arrives as it was sent`() throws {
        let flow = FlowKey(
            peer: try #require(SocketAddress("192.0.2.1:4000")), local: try #require(SocketAddress("192.0.2.9:684")))
        let datagram: [UInt8] = [25, 1, 2]
        func check(_ message: TaskMessage, _ isExpected: (TaskMessage) -> Bool) throws {
            let bytes = message.encode()
            let isAsExpected = try bytes.withUnsafeBytes { isExpected(try TaskMessage(decoding: $0, descriptor: 5)) }
            #expect(isAsExpected)
            for count in bytes.indices {
                #expect(throws: MalformedBytes.self) { try decode(Array(bytes[..<count]), descriptor: -1) }
            }
        }
        try datagram.withUnsafeBytes { raw in
            try check(.record(number: 9, flow: flow, datagram: raw)) {
                if case .record(9, flow, let bytes) = $0 { [UInt8](bytes) == datagram } else { false }
            }
            try check(.fromListener(server: "S", flow: flow, datagram: raw)) {
                if case .fromListener("S", flow, let bytes) = $0 { [UInt8](bytes) == datagram } else { false }
            }
        }
        try check(.wantSocket(server: "S", number: 9, flow: flow)) {
            if case .wantSocket("S", 9, flow) = $0 { true } else { false }
        }
        try check(.socket(number: 9, flow: flow, datagrams: [[1], datagram])) {
            if case .socket(9, flow, [[1], datagram]) = $0 { true } else { false }
        }
        try check(.ended(server: "S", number: 9)) {
            if case .ended("S", 9) = $0 { true } else { false }
        }
    }

    @Test func `a message with two descriptors or too many bytes is refused`() {
        #expect(throws: DtlsError.self) { try TaskMessage.encode([.sockFd(1), .sockFd(2)], handover: nil) }
        #expect(throws: DtlsError.self) {
            try TaskMessage.encode(.bytes([UInt8](repeating: 0, count: 200_000)), handover: nil)
        }
    }

    @Test func `bytes that are cut off are refused, and changed ones do not crash`() throws {
        let (bytes, _) = try TaskMessage.encode(value, handover: nil)
        for count in 0..<bytes.count {
            #expect(throws: MalformedBytes.self) { try decode(Array(bytes[..<count]), descriptor: -1) }
        }
        for index in bytes.indices {
            var changed = bytes
            changed[index] ^= 0xff
            // Any outcome but a crash.
            _ = try? decode(changed, descriptor: -1)
        }
    }

    /// A task makes the same server of what it is sent: certificates that were added, cookies, tickets.
    @Test func `a task learns all of a server's identity`() async throws {
        let authority = try await TestAuthority()
        let main = try await authority.issue("main", names: "DNS:main.example")
        let added = try await authority.issue("added", names: "DNS:added.example")
        let option = DtlsServerOption(
            name: "Server", ca: authority.certificate, cert: main.certificate, key: main.key, ipcert: true,
            renegotiate: true, handshakeTimeout: 2_000)
        let identity = try ServerIdentity(option)
        let certificate = DtlsCertificateOption(name: "added.example", cert: added.certificate + added.key)
        try identity.add(certificate)
        let copy = try ServerIdentity.decode(identity.encode())
        #expect(copy.option == option)
        #expect(copy.added == [certificate])
        #expect(copy.encode() == identity.encode())
        // Replaced, not added once more.
        try copy.add(DtlsCertificateOption(name: "ADDED.example", cert: main.certificate, key: main.key))
        #expect(copy.added.count == 1)
    }
}
