// Opens, uses and closes connections by the thousand, and prints what they leave behind: a process of its own, since
// descriptors and memory are a process' and other tests run beside this.
// Usage: DTLSKitSoak CERTIFICATE KEY
import CLinux
import DTLSKit
import Glibc

let certificate = try Dtls.readString(CommandLine.arguments[1])
let key = try Dtls.readString(CommandLine.arguments[2])

/// One server, and `count` connections to it, `atOnce` at a time. Each says something, hears it again, and closes.
func run(_ count: Int, atOnce: Int) throws -> Int {
    let server = try Dtls.createServer(DtlsServerOption(cert: certificate, key: key), Dtls.sockaddr("127.0.0.1", 0))
    let address = try server.sockName()
    var served = 0
    server.accept { client, _ in
        let event = try? iosched.event(.read, client.sockFd) {
            var buffer = [UInt8](repeating: 0, count: 2_000)
            do {
                while true {
                    let count = try client.recv(&buffer, timeout: 0)
                    if count == 0 { return true }
                    try client.send(buffer, length: count)
                }
            } catch {
                client.close()
                served += 1
                return false
            }
        }
        if let event { try? iosched.add(event) }
    }
    var started = 0
    var answered = 0
    var open: [ObjectIdentifier: DtlsConnection] = [:]
    while answered < count {
        while open.count < atOnce, started < count {
            started += 1
            let client = try Dtls.createClient(DtlsClientOption(), address) { result, _ in
                do {
                    let client = try result.get()
                    try client.send("message")
                    try iosched.add(
                        iosched.event(.read, client.sockFd) {
                            var buffer = [UInt8](repeating: 0, count: 2_000)
                            guard let count = try? client.recv(&buffer, timeout: 0), count == 0 else {
                                client.close()
                                open[ObjectIdentifier(client)] = nil
                                answered += 1
                                return false
                            }
                            return true
                        })
                } catch {
                    print("failed:", error)
                    exit(1)
                }
            }
            open[ObjectIdentifier(client)] = client
        }
        try iosched.poll()
    }
    while served < count { try iosched.poll() }
    server.close()
    // What is still to be done at the end of the last turn.
    try iosched.poll(timeout: 0)
    return served
}

func openDescriptors() -> Int {
    (0..<Int32(65_536)).count { fcntl($0, F_GETFD) >= 0 }
}

/// Bytes that are allocated and not freed.
func bytesInUse() -> Int { Int(cl_bytes_in_use()) }

func measure(_ name: String, _ work: () throws -> Int) throws {
    // The first time makes what is made once: tables, buffers, OpenSSL's own.
    _ = try work()
    var count = 0
    var left: [(descriptors: Int, bytes: Int)] = []
    while left.count < 10, left.last.map({ $0.descriptors != 0 || $0.bytes > 1_024 }) ?? true {
        let (descriptors, bytes) = (openDescriptors(), bytesInUse())
        count = try work()
        left.append((openDescriptors() - descriptors, bytesInUse() - bytes))
    }
    // The allocator's caches and tables settle after some rounds; a leak is there every time.
    let descriptors = left.map(\.descriptors).min() ?? 0
    let bytes = left.map(\.bytes).min() ?? 0
    print(name, "connections:", count, "descriptors:", descriptors, "bytes:", bytes)
}

var limit = rlimit(rlim_cur: 4_096, rlim_max: 4_096)
if getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 {
    limit.rlim_cur = min(limit.rlim_max, 65_536)
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}
try measure("sequence") { try run(1_000, atOnce: 1) }
try measure("together") { try run(500, atOnce: 500) }
