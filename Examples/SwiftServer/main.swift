// The asynchronous server again, as Swift would have it: async sequences, structured concurrency, cancellation.
// Usage: SwiftServer [port], in a folder with cert.pem and cert.key.
import DTLSKit

let option = DtlsServerOption(
    cert: try Dtls.readString("./cert.pem"),
    key: try Dtls.readString("./cert.key")
)
let saddr = try Dtls.sockaddr(Dtls.INADDR_ANY, CommandLine.arguments.dropFirst().first.flatMap { Int($0) } ?? 2049)
let server = try await AsyncDtlsServer(option, on: saddr)
print("Listening on:", try await server.sockName())

try await withThrowingDiscardingTaskGroup { group in
    for try await connection in server.connections {
        group.addTask {
            print("New client:", connection.remote)
            do {
                for try await message in connection.messages {
                    print("Client:", connection.remote.addr, "Say:", String(decoding: message, as: UTF8.self))
                    try await connection.send(message)
                }
                print("Client gone:", connection.remote)
            } catch {
                print("Client lost:", connection.remote, error)
            }
        }
    }
}
