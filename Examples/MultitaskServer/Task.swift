// What each of the two tasks does: the reference's task.js.
import DTLSKit
import Glibc

func onMessage(_ client: DtlsConnection, _ buffer: [UInt8], _ num: Int) {
    print("Task", getpid(), "Client:", client.remote.addr, "Say:", String(decoding: buffer[..<num], as: UTF8.self))
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

func runTask() throws {
    try DtlsTask.onMessage { msg in
        guard let sockFd = msg["sockFd"]?.sockFd else { return }
        do {
            // The callback form, so that a slow client does not keep the others waiting.
            try Dtls.createByFd("DTLS-Server1", sockFd) { result in
                do {
                    let client = try result.get()
                    let iosched = try iosched
                    try iosched.add(iosched.event(.read, client.sockFd) { receive(client) })
                } catch {
                    print("Task", getpid(), "handshake error:", error)
                }
            }
        } catch {
            print("Task", getpid(), "handshake error:", error)
        }
    }

    try iosched.forever()
}
