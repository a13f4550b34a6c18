import CLinux
import Foundation
import LinuxSystem

/// A client of a Unix stream socket that sends and reads bytes as a test says, without waiting.
package final class StreamClient: Sendable {
    private let descriptor: Int32

    package init(to path: String) throws {
        descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw POSIXError(.init(rawValue: errno) ?? .EIO) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { target in
            for (index, byte) in path.utf8.prefix(target.count - 1).enumerated() { target[index] = byte }
        }
        let connected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        let code = errno
        guard connected == 0 else {
            close(descriptor)
            throw POSIXError(.init(rawValue: code) ?? .EIO)
        }
        _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
    }

    deinit { close(descriptor) }

    /// - Returns: how many bytes the socket has taken; `nil` where the other end is gone.
    @discardableResult
    package func send(_ bytes: [UInt8]) -> Int? {
        let count = Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
        if count >= 0 { return count }
        return errno == EAGAIN ? 0 : nil
    }

    @discardableResult
    package func send(_ text: String) -> Int? { send(Array(text.utf8)) }

    package enum Read: Equatable {
        case nothing
        case bytes([UInt8])
        case end
    }

    package func read() -> Read {
        var bytes = [UInt8](repeating: 0, count: 65_536)
        let count = recv(descriptor, &bytes, bytes.count, 0)
        if count > 0 { return .bytes(Array(bytes.prefix(count))) }
        return count < 0 && errno == EAGAIN ? .nothing : .end
    }

    /// Waits for a line, and returns it without its line feed.
    package func line() async throws -> String {
        var bytes: [UInt8] = []
        try await eventually("a line comes", details: String(decoding: bytes, as: UTF8.self)) {
            while true {
                switch self.read() {
                case .nothing: return false
                case .end: throw NeverHappened(description: "the socket was closed before the end of a line")
                case .bytes(let new): bytes += new
                }
                if bytes.last == UInt8(ascii: "\n") { return true }
            }
        }
        return String(decoding: bytes.dropLast(), as: UTF8.self)
    }

    /// Waits until the other end has closed the socket. What comes before that is dropped.
    package func closed() async throws {
        try await eventually("the socket is closed") {
            while true {
                switch self.read() {
                case .nothing: return false
                case .end: return true
                case .bytes: continue
                }
            }
        }
    }

    package func endInput() { shutdown(descriptor, Int32(SHUT_WR)) }
}
