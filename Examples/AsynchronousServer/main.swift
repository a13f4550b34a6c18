// The asynchronous server of the reference: all clients at once, by callbacks.
// Usage: AsynchronousServer [port], in a folder with cert.pem and cert.key.
import DTLSKit

let option = DtlsServerOption(
    cert: try Dtls.readString("./cert.pem"),
    key: try Dtls.readString("./cert.key")
)

let saddr = try Dtls.sockaddr(Dtls.INADDR_ANY, CommandLine.arguments.dropFirst().first.flatMap { Int($0) } ?? 2049)
let server = try Dtls.createServer(option, saddr)
print("Listening on:", try server.sockName())

func onMessage(_ client: DtlsConnection, _ buffer: [UInt8], _ num: Int) {
    print("Client:", client.remote.addr, "Say:", String(decoding: buffer[..<num], as: UTF8.self))
    // A client that has left already gets no answer; recv says so next.
    _ = try? client.send(buffer, offset: 0, length: num)
}

/// Receives what there is. Returns whether the client is still there.
func receive(_ client: DtlsConnection) -> Bool {
    var buffer = [UInt8](repeating: 0, count: 4096)
    do {
        while true {
            let num = try client.recv(&buffer, offset: 0, length: buffer.count, timeout: 0)
            if num == 0 { return true }
            onMessage(client, buffer, num)
        }
    } catch {
        print("Client lost:", client.remote, error)
        client.close()
        return false
    }
}

server.accept { client, remoteAddr in
    print("New client:", remoteAddr)
    do {
        let iosched = try iosched
        try iosched.add(iosched.event(.read, client.sockFd) { receive(client) })
    } catch {
        print("Client lost:", remoteAddr, error)
        client.close()
    }
}

while true {
    try iosched.poll()
}
