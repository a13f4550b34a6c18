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

    @Test func `the service manager keeps what it is to keep, and nothing else`() async {
        await #expect(processExitsWith: .success) {
            let receiver = try FakeJournal()
            setenv("NOTIFY_SOCKET", receiver.path, 1)
            var manager = try ServiceManager()
            #expect(manager.takeStored(.ticketKeys).isOpen == false)
            let memory = try MemoryFile.makeOpen(name: "test")
            func received() -> String? { receiver.receive().map { String(decoding: $0, as: UTF8.self) } }
            manager.keep([.ticketKeys: memory.rawValue])
            #expect(received() == "FDSTORE=1\nFDNAME=dtlsd-ticket-keys\nFDPOLL=0")
            manager.keep([.ticketKeys: memory.rawValue])
            #expect(received() == nil)
            manager.keep([.connections(table: 3): memory.rawValue])
            #expect(received() == "FDSTOREREMOVE=1\nFDNAME=dtlsd-ticket-keys")
            #expect(received() == "FDSTORE=1\nFDNAME=dtlsd-connections-3\nFDPOLL=0")
            // What could not be sent is sent later.
            while manager.notify(.watchdog) {}
            manager.keep([.connections(table: 3): memory.rawValue, .cookieSecret: memory.rawValue])
            while let text = received() { #expect(text == "WATCHDOG=1") }
            manager.keep([.connections(table: 3): memory.rawValue, .cookieSecret: memory.rawValue])
            #expect(received() == "FDSTORE=1\nFDNAME=dtlsd-cookie-secret\nFDPOLL=0")
        }
    }

    @Test func `a process says nothing to the service manager before it has succeeded the main process`() async {
        await #expect(processExitsWith: .success) {
            let receiver = try FakeJournal()
            setenv("NOTIFY_SOCKET", receiver.path, 1)
            setenv("WATCHDOG_USEC", "3000000", 1)
            unsetenv("WATCHDOG_PID")
            let memory = try MemoryFile.makeOpen(name: "test")
            let raw = memory.rawValue
            var manager = try ServiceManager(passed: [
                PassedDescriptor("dtlsd-cookie-secret", try memory.duplicate()),
                PassedDescriptor("dtlsd-connections-0", try memory.duplicate()),
            ])
            #expect(manager.variables == ["NOTIFY_SOCKET": receiver.path, "WATCHDOG_USEC": "3000000"])
            #expect(manager.watchdogInterval == .milliseconds(1_500))
            let files = manager.takeStoredConnections()
            #expect(files.map(\.name) == ["dtlsd-connections-0"])
            #expect(manager.notify(.stopping) == true)
            manager.keep([.cookieSecret: raw])
            #expect(receiver.receive() == nil)
            manager.becomeMain()
            #expect(manager.notify(.mainProcess(7)) == true)
            #expect(receiver.receive() == Array("MAINPID=7".utf8))
            manager.keep([.cookieSecret: raw])
            #expect(receiver.receive() == Array("FDSTOREREMOVE=1\nFDNAME=dtlsd-connections-0".utf8))
            #expect(receiver.receive() == Array("FDSTORE=1\nFDNAME=dtlsd-cookie-secret\nFDPOLL=0".utf8))
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

@Suite struct DescriptorStoreTests {
    @Test func `a name that holds something useless is freed before it is used again`() {
        var store = DescriptorStore(passed: [.connections(table: 0), .ticketKeys], isCertain: true)
        #expect(store.steps(toKeep: [.connections(table: 0): 5, .ticketKeys: 6]) == [])
        store.discard(.connections(table: 0))
        store.discard(.cookieSecret)
        let wanted: [StoredItem: Int32] = [.connections(table: 0): 5, .ticketKeys: 6]
        #expect(
            store.steps(toKeep: wanted) == [
                .remove(.connections(table: 0)), .store(.connections(table: 0), descriptor: 5),
            ])
        for step in store.steps(toKeep: wanted) { store.sent(step) }
        #expect(store.steps(toKeep: wanted) == [])
        #expect(store.steps(toKeep: [.ticketKeys: 6]) == [.remove(.connections(table: 0))])
    }

    @Test func `what another process may have stored is stored again or removed`() {
        var store = DescriptorStore(passed: [.ticketKeys, .listener("[;;1];1/a")], isCertain: false)
        let steps = store.steps(toKeep: [.ticketKeys: 6])
        #expect(steps == [.remove(.listener("[;;1];1/a")), .store(.ticketKeys, descriptor: 6)])
        for step in steps { store.sent(step) }
        #expect(store.steps(toKeep: [.ticketKeys: 6]) == [])
    }

    @Test func `names are as systemd takes them, and name the same item when they come back`() throws {
        let items: [StoredItem] = [
            .ticketKeys, .cookieSecret, .connectionIDKey, .connections(table: 0), .connections(table: 17),
            .listener("[;;1];4433/0f"),
        ]
        for item in items {
            #expect(item.name.utf8.allSatisfy { $0 > 32 && $0 < 127 && $0 != UInt8(ascii: ":") })
            let isSocket = if case .listener = item { true } else { false }
            #expect(StoredItem(name: item.name, isSocket: isSocket) == item)
            #expect(StoredItem(name: item.name, isSocket: !isSocket) == nil)
        }
        let address = try #require(SocketAddress(host: "::1", port: 4433))
        let listener = StoredItem.listener(on: address, SocketOptions(interface: "eth0"))
        #expect(listener.name.hasPrefix("dtlsd-listener-[;;1];4433/"))
        #expect(StoredItem(name: listener.name, isSocket: true) == listener)
        #expect(listener != .listener(on: address, SocketOptions()))
        // The names of sockets that socket units pass.
        for name in ["dtlsd.socket", "dtlsd-listener-2.socket", "dtlsd-connections-0", "unknown", "echo"] {
            #expect(StoredItem(name: name, isSocket: true) == nil, "\(name)")
        }
        for name in ["dtlsd-connections-", "dtlsd-connections--1", "dtlsd-connections-x", "other"] {
            #expect(StoredItem(name: name, isSocket: false) == nil, "\(name)")
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
