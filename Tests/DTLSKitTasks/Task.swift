import DTLSKit

/// Echoes what a client says. Returns whether it is still there.
private func receive(_ client: DtlsConnection) -> Bool {
    var buffer = [UInt8](repeating: 0, count: 4_096)
    do {
        while true {
            let count = try client.recv(&buffer, timeout: 0)
            if count == 0 { return true }
            try client.send(buffer, length: count)
        }
    } catch {
        print("Task: client ended:", error)
        client.close()
        return false
    }
}

func serveAsTask() throws {
    try DtlsTask.onMessage { message in
        guard let sockFd = message["sockFd"]?.sockFd else { return }
        do {
            try Dtls.createByFd("Server", sockFd) { result in
                do {
                    let client = try result.get()
                    print("Task: handshake done:", client.session?.serverName ?? "-")
                    client.onAddressChange { now, former in
                        print("Task: the client is at another address:", now, "instead of", former)
                    }
                    let iosched = try iosched
                    try iosched.add(iosched.event(.read, client.sockFd) { receive(client) })
                } catch {
                    print("Task: handshake failed:", error)
                }
            }
        } catch {
            print("Task: cannot take it:", error)
        }
    }
    try iosched.forever()
}
