import Foundation
import Glibc
import Testing

/// A DTLS client of another project, as a process.
struct Client: Sendable, CustomTestStringConvertible {
    let program: String
    /// `PORT` stands for the server's port.
    let arguments: [String]

    var testDescription: String { ([program] + arguments).joined(separator: " ") }

    static let all = [
        Client(program: "openssl", arguments: ["s_client", "-dtls1_2", "-connect", "127.0.0.1:PORT"]),
        Client(program: "openssl", arguments: ["s_client", "-dtls1_2", "-mtu", "256", "-connect", "127.0.0.1:PORT"]),
        Client(program: "gnutls-cli", arguments: ["--udp", "--insecure", "-p", "PORT", "127.0.0.1"]),
        Client(program: "gnutls-cli", arguments: ["--udp", "--mtu", "200", "--insecure", "-p", "PORT", "127.0.0.1"]),
    ]

    /// Starts it with nothing to read until it is stopped.
    func run(port: UInt16) throws -> RunningClient {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = [program] + arguments.map { $0.replacingOccurrences(of: "PORT", with: "\(port)") }
        let input = Pipe()
        process.standardInput = input
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        return RunningClient(process: process, input: input)
    }
}

struct RunningClient {
    let process: Process
    /// Kept open: a client whose input ends says goodbye.
    let input: Pipe

    func stop() {
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }
}

/// A UDP socket on 127.0.0.1 and a port of the kernel's choice.
final class LoopbackServer {
    private let descriptor: Int32
    let port: UInt16

    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    init() throws {
        let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw Failure(description: "socket: \(errno)") }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        // Generous: a client that does not send within it does not send at all.
        var deadline = timeval(tv_sec: 60, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &deadline, socklen_t(MemoryLayout<timeval>.size))
        let bound = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, length) == 0 && getsockname(descriptor, $0, &length) == 0
            }
        }
        guard bound else {
            close(descriptor)
            throw Failure(description: "bind: \(errno)")
        }
        self.descriptor = descriptor
        port = UInt16(bigEndian: address.sin_port)
    }

    deinit { close(descriptor) }

    /// The next datagram, and its sender's sockaddr_in.
    func receive() throws -> (datagram: [UInt8], from: [UInt8]) {
        var address = [UInt8](repeating: 0, count: MemoryLayout<sockaddr_in>.size)
        var datagram = [UInt8](repeating: 0, count: 65_536)
        var length = socklen_t(address.count)
        let count = address.withUnsafeMutableBytes { address in
            recvfrom(
                descriptor, &datagram, datagram.count, 0, address.assumingMemoryBound(to: sockaddr.self).baseAddress,
                &length)
        }
        guard count >= 0 else { throw Failure(description: "no datagram from the client within a minute: \(errno)") }
        return (Array(datagram.prefix(count)), address)
    }

    func send(_ datagram: [UInt8], to address: [UInt8]) throws {
        let count = address.withUnsafeBytes {
            sendto(
                descriptor, datagram, datagram.count, 0, $0.assumingMemoryBound(to: sockaddr.self).baseAddress,
                socklen_t(address.count))
        }
        guard count == datagram.count else { throw Failure(description: "sendto: \(errno)") }
    }
}
