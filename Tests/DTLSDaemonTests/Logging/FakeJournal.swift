import Foundation
import Glibc
import LinuxSystem
import Logging

@testable import DTLSDaemon

/// A Unix datagram socket in a directory of its own that plays journald, or the service manager.
final class FakeJournal {
    struct ParseError: Error {
        let rest: [UInt8]
    }

    let path: String
    private let directory: URL
    private let descriptor: Int32

    init() throws {
        directory = FileManager.default.temporaryDirectory.appending(path: "dtlsd-\(UUID().uuidString.prefix(8))")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        path = directory.appending(path: "socket").path
        descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        let bound = withUnsafeMutableBytes(of: &address) { storage in
            storage.baseAddress?.advanced(by: 2).copyMemory(from: bytes, byteCount: bytes.count)
            return storage.withMemoryRebound(to: sockaddr.self) {
                bind(descriptor, $0.baseAddress, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard descriptor >= 0, bound == 0 else { throw SystemError("bind", path, errno: errno) }
    }

    deinit {
        close(descriptor)
        try? FileManager.default.removeItem(at: directory)
    }

    func logger(role: String = "main", level: Logger.Level = .trace) throws -> Logger {
        let sink = LogSink(role: role, level: level, destination: .journal(try JournalSocket(path: path)))
        return Logger(label: "test") { _ in DaemonLogHandler(sink: sink) }
    }

    /// The next datagram, or `nil` when there is none: all senders of these tests are synchronous.
    func receive() -> [UInt8]? {
        var buffer = [UInt8](repeating: 0, count: 200_000)
        let count = recv(descriptor, &buffer, buffer.count, Int32(MSG_DONTWAIT))
        return count >= 0 ? Array(buffer[..<count]) : nil
    }

    /// Every entry that has arrived, by a reader of the native protocol that knows nothing of the writer.
    func entries() throws -> [[String: String]] {
        var result: [[String: String]] = []
        while let datagram = receive() { result.append(try Self.parse(datagram)) }
        return result
    }

    static func parse(_ datagram: [UInt8]) throws -> [String: String] {
        var fields: [String: String] = [:]
        var rest = datagram[...]
        let newline = UInt8(ascii: "\n")
        while !rest.isEmpty {
            guard let end = rest.firstIndex(of: newline) else { throw ParseError(rest: Array(rest)) }
            let line = rest[..<end]
            rest = rest[(end + 1)...]
            if let equals = line.firstIndex(of: UInt8(ascii: "=")) {
                fields[String(decoding: line[..<equals], as: UTF8.self)] =
                    String(decoding: line[(equals + 1)...], as: UTF8.self)
                continue
            }
            guard rest.count > 8 else { throw ParseError(rest: Array(rest)) }
            let length = rest.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
            rest = rest.dropFirst(8)
            guard rest.count > length, rest[rest.startIndex + length] == newline else {
                throw ParseError(rest: Array(rest))
            }
            fields[String(decoding: line, as: UTF8.self)] = String(decoding: rest.prefix(length), as: UTF8.self)
            rest = rest.dropFirst(length + 1)
        }
        return fields
    }
}
