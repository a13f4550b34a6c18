import Foundation
import Glibc
import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// What a socket of a syslog daemon has no room for.
@Suite struct UnixLogSocketTests {
    private let loop: EventLoop
    private let receiver: Receiver
    private let socket: UnixLogSocket

    init() throws {
        loop = try EventLoop()
        receiver = try Receiver()
        socket = UnixLogSocket(
            receiver.path, PendingBudget(), loop: loop, logs: WorkerLogs(worker: 0, loop: loop))
    }

    /// A socket whose queue has as few places as the system says.
    private final class Receiver {
        let path = "/tmp/dtlsd-\(UUID().uuidString)"
        private let descriptor: Int32

        init() throws {
            descriptor = Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
            var address = sockaddr_un()
            address.sun_family = sa_family_t(AF_UNIX)
            withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
            let bound = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
                }
            }
            try #require(bound == 0)
        }

        deinit {
            close(descriptor)
            unlink(path)
        }

        /// The next entry as a number, or `nil`.
        func next() -> Int? {
            var bytes = [UInt8](repeating: 0, count: 65_536)
            let count = recv(descriptor, &bytes, bytes.count, 0)
            return count < 0 ? nil : Int(String(decoding: bytes.prefix(count).filter { $0 != 0x20 }, as: UTF8.self))
        }
    }

    /// - Parameter size: bytes of each; spaces fill it up.
    private func send(_ numbers: Range<Int>, size: Int = 8) {
        for number in numbers {
            let text = Array("\(number)".utf8)
            socket.send(text + [UInt8](repeating: 0x20, count: size - text.count), of: "collect")
        }
    }

    /// Reads until nothing waits, and nothing is left.
    private func receiveAll() throws -> [Int] {
        var received: [Int] = []
        while true {
            let hadWaiting = socket.isBusy
            while let number = receiver.next() { received.append(number) }
            if !hadWaiting { return received }
            try loop.poll(timeout: nil)
        }
    }

    @Test func `a burst arrives in its order`() throws {
        send(0..<500)
        #expect(socket.isBusy)
        #expect(try receiveAll() == Array(0..<500))
        send(500..<501)
        #expect(!socket.isBusy)
        #expect(try receiveAll() == [500])
    }

    /// Others of the same socket go behind what waits.
    @Test func `later messages go behind those that wait`() throws {
        send(0..<50)
        #expect(receiver.next() == 0)
        send(50..<60)
        #expect(try receiveAll() == Array(1..<60))
    }

    @Test(arguments: [(8, 1_024), (16_384, 64)])
    func `the messages that wait are bounded`(_ size: Int, _ bound: Int) throws {
        send(0..<(bound + 1_000), size: size)
        let received = try receiveAll()
        #expect(received.count >= bound && received.count < bound + 1_000)
        #expect(received == Array(0..<received.count))
    }

    @Test func `a receiver that goes away takes all that waits along`() throws {
        send(0..<100)
        unlink(receiver.path)
        while socket.isBusy { try loop.poll(timeout: nil) }
        let received = try receiveAll()
        #expect(!received.isEmpty && received == Array(0..<received.count) && received.count < 100)
    }

    @Test func `an ending worker waits for a reader`() throws {
        send(0..<100)
        var isDone = false
        socket.finish(by: .distantFuture) { isDone = true }
        #expect(!isDone)
        #expect(try receiveAll() == Array(0..<100))
        #expect(isDone)
    }

    @Test func `an ending worker does not wait for ever`() throws {
        send(0..<100)
        var isDone = false
        socket.finish(by: loop.now + .milliseconds(20)) { isDone = true }
        while !isDone { try loop.poll(timeout: nil) }
        #expect(!socket.isBusy)
    }
}
