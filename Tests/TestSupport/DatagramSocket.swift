import CLinux
import Foundation
import LinuxSystem

/// No port for a test's socket could be found at this host.
package struct NoFreePort: Error {
    package let host: String

    package init(host: String) { self.host = host }
}

extension SocketAddress {
    /// An address for a server, with a port that nobody has now, neither at `host` nor at `others`, and that stays free
    /// until the server binds it. The same goes for the next port, which some servers take too.
    package static func free(on host: String, and others: String...) throws -> SocketAddress {
        let hosts = try ([host] + others).map { name in
            guard let address = SocketAddress(host: name, port: 0) else { throw NoFreePort(host: name) }
            return address
        }
        for _ in 0..<1_000 {
            let port = try ServerPorts.next()
            let wanted = hosts.flatMap { [$0.with(port: port), $0.with(port: port + 1)] }
            if wanted.allSatisfy({ (try? DatagramSocket(at: $0)) != nil }) { return hosts[0].with(port: port) }
        }
        throw NoFreePort(host: host)
    }

    /// An address of this run's own in 127.0.0.0/8, so that suites that run at the same time cannot meet.
    package static func freeOnOwnLoopback() throws -> SocketAddress {
        try free(on: ownLoopback)
    }

    package static let ownLoopback =
        "127.\(UInt8.random(in: 1...254)).\(UInt8.random(in: 1...254)).\(UInt8.random(in: 2...254))"
}

/// A plain UDP or Unix datagram socket of the test itself.
package final class DatagramSocket: Sendable {
    package struct Failure: Error, CustomStringConvertible {
        package let description: String
        package init(_ call: String) { description = "\(call): \(String(cString: strerror(errno)))" }
    }

    private let descriptor: Int32
    /// Where it is bound; meaningless for a Unix socket.
    package let local: SocketAddress

    /// A UDP socket at an address of this run's own, on a port that the kernel chooses. A port that was only found free
    /// can still be in use: a child between fork() and exec() may hold a copy of the socket that was bound to see.
    package static func onOwnLoopback() throws -> DatagramSocket {
        guard let address = SocketAddress(host: SocketAddress.ownLoopback, port: 0) else {
            throw NoFreePort(host: SocketAddress.ownLoopback)
        }
        return try DatagramSocket(at: address)
    }

    /// A UDP socket bound to `address`.
    package init(at address: SocketAddress) throws {
        let descriptor = socket(address.family.domain, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw Failure("socket") }
        var size: Int32 = 4 << 20
        setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &size, 4)
        guard address.withSockaddr({ bind(descriptor, $0, $1) }) == 0 else {
            close(descriptor)
            throw Failure("bind \(address)")
        }
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let bound = withUnsafeMutablePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
        }
        guard bound == 0,
            let local = withUnsafeBytes(
                of: &storage,
                { bytes in
                    bytes.baseAddress.flatMap { SocketAddress($0, length: Int(length)) }
                })
        else { throw Failure("getsockname") }
        self.local = local
        self.descriptor = descriptor
    }

    /// A Unix datagram socket at `path`.
    package init(atPath path: String) throws {
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0, let anywhere = SocketAddress(host: "0.0.0.0", port: 0) else { throw Failure("socket") }
        local = anywhere
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix($0.count - 1)) }
        let bound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard bound == 0 else {
            close(descriptor)
            throw Failure("bind \(path)")
        }
        self.descriptor = descriptor
    }

    deinit { close(descriptor) }

    /// The sender's address as the kernel writes it: equal for datagrams of one sender, and what ``send(_:to:)`` takes.
    package typealias Sender = [UInt8]

    /// The next datagram, or `nil` when none came for some milliseconds.
    package func receive() -> (bytes: [UInt8], from: Sender)? {
        Self.wait(for: [self])
        return receiveAtOnce()
    }

    /// Waits until one of these has a datagram, for some milliseconds at most.
    package static func wait(for sockets: [DatagramSocket]) {
        var ready = sockets.map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
        poll(&ready, nfds_t(ready.count), 20)
    }

    /// The next datagram, or `nil` when there is none yet.
    package func receiveAtOnce() -> (bytes: [UInt8], from: Sender)? {
        var bytes = [UInt8](repeating: 0, count: 65_536)
        var sender = Sender(repeating: 0, count: MemoryLayout<sockaddr_storage>.size)
        var length = socklen_t(sender.count)
        let count = sender.withUnsafeMutableBytes { address in
            recvfrom(
                descriptor, &bytes, bytes.count, Int32(MSG_DONTWAIT),
                address.baseAddress?.assumingMemoryBound(to: sockaddr.self), &length
            )
        }
        guard count >= 0 else { return nil }
        return (Array(bytes.prefix(count)), Array(sender.prefix(Int(length))))
    }

    /// The next datagram, if it is from `address`, or `nil`.
    package func receive(from address: SocketAddress) -> [UInt8]? {
        guard let (bytes, sender) = receive() else { return nil }
        return sender.withUnsafeBytes { raw in
            raw.baseAddress.flatMap { SocketAddress($0, length: raw.count) } == address ? bytes : nil
        }
    }

    /// Takes no more: senders over a Unix socket get EPIPE. What is in the queue can still be received.
    package func stopReceiving() { shutdown(descriptor, Int32(SHUT_RD)) }

    package func send(_ bytes: [UInt8], to sender: Sender) {
        _ = sender.withUnsafeBytes { address in
            sendto(
                descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL),
                address.baseAddress?.assumingMemoryBound(to: sockaddr.self), socklen_t(sender.count))
        }
    }

    package func send(_ bytes: [UInt8], to address: SocketAddress) {
        _ = address.withSockaddr { sendto(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL), $0, $1) }
    }

    /// Has the kernel report the traffic class of each datagram (IP_TOS or IPV6_TCLASS); see ``receiveTrafficClass()``.
    package func reportTrafficClass() {
        var on: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_IP), IP_RECVTOS, &on, 4)
        if local.family == .ipv6 { setsockopt(descriptor, Int32(IPPROTO_IPV6), IPV6_RECVTCLASS, &on, 4) }
    }

    /// The next datagram with the traffic class of its IP packet, or `nil` when none came for some milliseconds.
    package func receiveTrafficClass() -> (bytes: [UInt8], trafficClass: UInt8?)? {
        Self.wait(for: [self])
        var bytes = [UInt8](repeating: 0, count: 65_536)
        var control = [UInt8](repeating: 0, count: 256)
        var controlCount = 0
        let count = bytes.withUnsafeMutableBytes { bytes in
            control.withUnsafeMutableBytes { control in
                var part = iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
                return withUnsafeMutablePointer(to: &part) { part in
                    var message = msghdr()
                    message.msg_iov = part
                    message.msg_iovlen = 1
                    message.msg_control = control.baseAddress
                    message.msg_controllen = control.count
                    defer { controlCount = message.msg_controllen }
                    return recvmsg(descriptor, &message, Int32(MSG_DONTWAIT))
                }
            }
        }
        guard count >= 0 else { return nil }
        // A cmsghdr is its length (8 bytes), level and type (4 each), and then the value, whose first byte is the class
        // in either family on a little-endian machine (cmsg(3)).
        let isPresent = controlCount > 16
        return (Array(bytes.prefix(count)), isPresent ? control[16] : nil)
    }
}
