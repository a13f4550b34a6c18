import Foundation
import LinuxSystem
import Synchronization
import TestSupport

/// Keeps the descriptors that a daemon stores (FDSTORE=1, sd_pid_notify_with_fds(3)), and passes memory files to the next
/// one, as systemd does in a restart. Sockets cannot be opened again by their names in /proc, so listeners are not kept.
final class DescriptorStore: Sendable {
    private final class Stored: Sendable {
        let name: String
        let descriptor: Int32

        init(_ name: String, _ descriptor: consuming FileDescriptor) {
            self.name = name
            self.descriptor = dup(descriptor.rawValue)
        }

        deinit { close(descriptor) }
    }

    private final class Shared: Sendable {
        let stored = Mutex<[String: Stored]>([:])
        let isOver = Atomic<Bool>(false)
    }

    private let shared = Shared()
    private let path: String

    init(in folder: TestFolder) throws {
        path = folder.file("notify")
        let socket = FileDescriptor(
            owning: Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0))
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8.prefix(107))) }
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(socket.rawValue, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard result == 0 else { throw DatagramSocket.Failure("bind \(path)") }
        let descriptor = dup(socket.rawValue)
        Thread.detachNewThread { [shared] in
            let socket = FileDescriptor(owning: descriptor)
            let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 16)
            defer { buffer.deallocate() }
            while !shared.isOver.load(ordering: .relaxed) {
                var wanted = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
                guard poll(&wanted, 1, 50) == 1, let received = try? UnixChannel.receive(into: buffer, from: socket),
                    case .message(let count, let attached, _) = consume received
                else { continue }
                Self.take(String(decoding: buffer[..<count], as: UTF8.self), attached, shared)
            }
        }
    }

    deinit { shared.isOver.store(true, ordering: .relaxed) }

    private static func take(_ text: String, _ descriptor: consuming FileDescriptor?, _ shared: Shared) {
        let lines = text.split(separator: "\n")
        guard let name = lines.first(where: { $0.hasPrefix("FDNAME=") })?.dropFirst("FDNAME=".count) else { return }
        if lines.contains("FDSTOREREMOVE=1") {
            shared.stored.withLock { $0[String(name)] = nil }
        } else if lines.contains("FDSTORE=1"), let descriptor, !name.hasPrefix("dtlsd-listener") {
            let stored = Stored(String(name), descriptor)
            shared.stored.withLock { $0[stored.name] = stored }
        }
    }

    /// The environment of a daemon that stores here.
    var environment: [String: String] { ["NOTIFY_SOCKET": path] }

    var names: Set<String> { Set(shared.stored.withLock { $0.keys }) }

    /// A program that becomes the daemon, which finds the memory files that are stored now.
    var prefix: [String] {
        let files = shared.stored.withLock { Array($0.values) }
        var opened = ""
        for (index, file) in files.enumerated() { opened += " \(index + 3)<>/proc/\(getpid())/fd/\(file.descriptor)" }
        let names = files.map(\.name).joined(separator: ":")
        let script =
            "exec\(opened); export LISTEN_PID=$$ LISTEN_FDS=\(files.count) LISTEN_FDNAMES=\(names); exec \"$@\""
        // dash takes descriptors of one digit only.
        return ["bash", "-c", script, "daemon"]
    }
}
