// A named server and its task, for the tests: it does what is said on its standard input.
// Usage: DTLSKitTasks whole|bare|window|established [BYTES], in a folder with cert.pem and cert.key. BYTES: of the
// connection IDs that clients are asked for; none are if it is not given.
//   whole: the task gets each connection with its hello; bare: the number of the descriptor and nothing else;
//   established: the program does the handshake and echoes one message, and then the task gets the connection;
//   window: as bare, but the socket takes anybody's datagrams until "go" is said, as one between bind() and connect().
// Commands: "addcert NAME" (takes NAME.pem and NAME.key), "go".
import DTLSKit
import Glibc

try DtlsTask.run(["task": serveAsTask])

let mode = CommandLine.arguments.dropFirst().first ?? "whole"
let task = try DtlsTask("task")
task.onExit { _, ending in
    print("Task ended:", ending)
    exit(1)
}
let server = try Dtls.createServer(
    DtlsServerOption(
        name: "Server", cert: try Dtls.readString("./cert.pem"), key: try Dtls.readString("./cert.key"),
        connectionID: CommandLine.arguments.dropFirst(2).first.flatMap { Int($0) }),
    try Dtls.sockaddr("127.0.0.1", 0))
/// Sockets that wait for "go", and whom they are to be connected to.
var waiting: [(descriptor: Int32, peer: sockaddr_in)] = []

func connect(_ descriptor: Int32, _ address: sockaddr_in) {
    let code = withUnsafePointer(to: address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
    if code != 0 { print("connect failed:", errno) }
}

@MainActor func give(_ descriptor: Int32) throws {
    try task.send(["sockFd": .sockFd(descriptor)])
    close(descriptor)
}

server.accept { client, remote in
    do {
        if mode == "established" {
            var buffer = [UInt8](repeating: 0, count: 4_096)
            let count = try client.recv(&buffer, timeout: 20_000)
            try client.send(buffer, length: count)
            let descriptor = client.sockFd
            try task.send(["sockFd": .sockFd(descriptor)])
            do {
                try client.send("again")
            } catch DtlsError.notOpen {
                print("It is the task's")
            }
            client.flyAway()
        } else if mode == "whole" {
            try task.send(["sockFd": .sockFd(client.sockFd)])
            client.flyAway()
        } else {
            let descriptor = dup(client.sockFd)
            client.flyAway()
            if mode == "bare" {
                try give(descriptor)
            } else {
                var peer = sockaddr_in()
                peer.sin_family = sa_family_t(AF_INET)
                peer.sin_port = UInt16(truncatingIfNeeded: remote.port).bigEndian
                inet_pton(AF_INET, remote.addr, &peer.sin_addr)
                waiting.append((descriptor, peer))
                var nobody = sockaddr_in()
                nobody.sin_family = sa_family_t(AF_UNSPEC)
                connect(descriptor, nobody)
            }
        }
        print("New client:", remote)
    } catch {
        print("Client lost:", error)
    }
}

@MainActor func obey(_ line: Substring) throws {
    let words = line.split(separator: " ")
    if words.first == "addcert", words.count == 2 {
        let name = String(words[1])
        try server.addcert(
            DtlsCertificateOption(
                name: name, cert: try Dtls.readString("./\(name).pem"), key: try Dtls.readString("./\(name).key")))
    } else if words.first == "go" {
        for (descriptor, peer) in waiting {
            connect(descriptor, peer)
            try give(descriptor)
        }
        waiting = []
    }
    print("Done:", line)
}

try iosched.add(
    iosched.event(.read, STDIN_FILENO) {
        var bytes = [UInt8](repeating: 0, count: 1_000)
        let count = read(STDIN_FILENO, &bytes, bytes.count)
        guard count > 0 else { exit(0) }
        do {
            for line in String(decoding: bytes[..<count], as: UTF8.self).split(separator: "\n") { try obey(line) }
        } catch {
            print("Cannot:", error)
        }
        return true
    })

print("Listening on:", try server.sockName(), "task", task.pid)
try iosched.forever()
