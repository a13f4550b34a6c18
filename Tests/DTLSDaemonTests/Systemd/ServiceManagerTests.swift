import CLinux
import Glibc
import LinuxSystem
import Testing

@testable import DTLSDaemon

/// The environment belongs to the whole process, so what reads it runs in a process of its own.
@Suite struct ServiceManagerTests {
    @Test func `without a service manager nothing is sent and nothing is inherited`() async {
        await #expect(processExitsWith: .success) {
            for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "WATCHDOG_PID"] {
                unsetenv(name)
            }
            var manager = try ServiceManager()
            #expect(manager.isPresent == false)
            #expect(manager.notify(.ready) == true)
            #expect(manager.watchdogInterval == nil)
            #expect(try manager.takeSockets().isEmpty)
        }
    }

    @Test func `notifications reach the service manager`() async {
        await #expect(processExitsWith: .success) {
            let receiver = try FakeJournal()
            setenv("NOTIFY_SOCKET", receiver.path, 1)
            let manager = try ServiceManager()
            #expect(manager.isPresent == true)
            #expect(manager.notify(.ready, .result(errno: 22), .status("2 workers,\nREADY=1 of 3 clients")) == true)
            #expect(manager.notify(.watchdog) == true)
            #expect(manager.notify(.stopping) == true)
            #expect(manager.notify(.reloading) == true)
            let texts = (0..<4).map { _ in receiver.receive().map { String(decoding: $0, as: UTF8.self) } }
            #expect(texts[0] == "READY=1\nERRNO=22\nSTATUS=2 workers, READY=1 of 3 clients")
            #expect(texts[1] == "WATCHDOG=1")
            #expect(texts[2] == "STOPPING=1")
            let prefix = "RELOADING=1\nMONOTONIC_USEC="
            let reloading = try #require(texts[3])
            #expect(reloading.hasPrefix(prefix))
            var now = timespec()
            clock_gettime(CLOCK_MONOTONIC, &now)
            let said = try #require(Int(reloading.dropFirst(prefix.count)))
            #expect((now.tv_sec - 60) * 1_000_000 < said && said <= (now.tv_sec + 1) * 1_000_000)
        }
    }

    @Test func `a descriptor is stored with the service manager`() async {
        await #expect(processExitsWith: .success) {
            let receiver = try FakeJournal()
            setenv("NOTIFY_SOCKET", receiver.path, 1)
            var manager = try ServiceManager()
            #expect(manager.takeStored().isOpen == false)
            let memory = try MemoryFile.makeOpen(name: "test")
            #expect(manager.store(memory, name: "keys") == true)
            #expect(receiver.receive() == Array("FDSTORE=1\nFDNAME=keys\nFDPOLL=0".utf8))
            while manager.notify(.watchdog) {}
            #expect(manager.store(memory, name: "keys") == false)
        }
    }

    @Test func `a full notification queue does not block`() async {
        await #expect(processExitsWith: .success) {
            let receiver = try FakeJournal()
            setenv("NOTIFY_SOCKET", receiver.path, 1)
            let manager = try ServiceManager()
            var taken = 0
            while taken < 100_000, manager.notify(.watchdog) { taken += 1 }
            #expect(taken > 0 && taken < 100_000)
            #expect(receiver.receive() != nil)
            #expect(manager.notify(.watchdog) == true)
        }
    }

    @Test func `an abstract notification address works`() async {
        await #expect(processExitsWith: .success) {
            let name = "dtlsd-test-\(getpid())"
            let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
            var address = sockaddr_un()
            address.sun_family = sa_family_t(AF_UNIX)
            let bound = withUnsafeMutableBytes(of: &address) { storage in
                for (index, byte) in name.utf8.enumerated() { storage[3 + index] = byte }
                return storage.withMemoryRebound(to: sockaddr.self) {
                    bind(descriptor, $0.baseAddress, socklen_t(3 + name.utf8.count))
                }
            }
            try #require(bound == 0)
            setenv("NOTIFY_SOCKET", "@" + name, 1)
            let manager = try ServiceManager()
            #expect(manager.notify(.ready) == true)
            var buffer = [UInt8](repeating: 0, count: 100)
            let count = recv(descriptor, &buffer, 100, Int32(MSG_DONTWAIT))
            #expect(String(decoding: buffer[..<max(0, count)], as: UTF8.self) == "READY=1")
        }
    }

    @Test(arguments: ["relative", "@", "/" + String(repeating: "x", count: 200)])
    func `an invalid notification address is an error`(address: String) {
        #expect(throws: SystemError.self) { _ = try UnixDatagramSender(to: address) }
    }

    /// In a process of its own, since it changes the environment. Descriptors from 3 on are the test runner's there, so
    /// that sockets arrive under their names is for SystemdTests to show.
    @Test func `the variables of the service manager are removed once they are read`() async {
        await #expect(processExitsWith: .success) {
            setenv("LISTEN_PID", "1", 1)
            setenv("LISTEN_FDS", "2", 1)
            setenv("LISTEN_FDNAMES", "echo:coap", 1)
            setenv("WATCHDOG_USEC", "3000000", 1)
            setenv("WATCHDOG_PID", "\(getpid())", 1)
            setenv("NOTIFY_SOCKET", "/run/nobody", 1)
            var manager = try ServiceManager()
            #expect(manager.watchdogInterval == .milliseconds(1_500))
            #expect(manager.notify(.ready) == false)
            let variables = [
                "NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID",
            ]
            for name in variables { #expect(getenv(name) == nil, "\(name)") }
            // They were meant for process 1.
            #expect(try manager.takeSockets().isEmpty)
        }
    }

    @Test(arguments: [AF_INET, AF_INET6])
    func `a bound socket is inherited with its name and address`(_ domain: Int32) throws {
        let bound = try boundSocket(domain)
        let socket = try InheritedSocket(name: "echo", FileDescriptor(owning: bound.descriptor))
        #expect(socket.name == "echo")
        #expect(socket.address == bound.address)
        #expect(fcntl(socket.descriptor.rawValue, F_GETFL) & O_NONBLOCK != 0)
    }

    @Test func `a socket of another kind is an error that names the socket`() throws {
        let stream = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        let unix = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
        let unbound = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        let null = open("/dev/null", O_RDWR)
        for (descriptor, words) in [
            (stream, "is not a datagram socket"), (unix, "is not an Internet socket"), (unbound, "is not bound"),
            (null, "is not a socket"),
        ] {
            let error = #expect(throws: InheritedSocketError.self) {
                _ = try InheritedSocket(name: "coap", FileDescriptor(owning: descriptor))
            }
            #expect(error?.description.contains("'coap'") == true)
            #expect(error?.description.contains(words) == true, "\(String(describing: error))")
        }
    }
}

private func boundSocket(_ domain: Int32) throws -> (descriptor: Int32, address: SocketAddress) {
    let descriptor = socket(domain, Int32(SOCK_DGRAM.rawValue), 0)
    let address = try #require(SocketAddress(host: domain == AF_INET ? "127.0.0.1" : "::1", port: 0))
    let bound = address.withSockaddr { bind(descriptor, $0, $1) }
    try #require(bound == 0)
    var storage = sockaddr_storage()
    var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
    let local = withUnsafeMutableBytes(of: &storage) { bytes in
        let result = bytes.withMemoryRebound(to: sockaddr.self) { getsockname(descriptor, $0.baseAddress, &length) }
        return result == 0 ? bytes.baseAddress.flatMap { SocketAddress($0, length: Int(length)) } : nil
    }
    return (descriptor, try #require(local))
}
