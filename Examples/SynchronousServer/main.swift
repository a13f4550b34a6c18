// The synchronous server of the reference: one client after the other, each call waits.
// Usage: SynchronousServer [port], in a folder with cert.pem and cert.key.
import DTLSKit

let option = DtlsServerOption(
    cert: try Dtls.readString("./cert.pem"),
    key: try Dtls.readString("./cert.key")
)

let saddr = try Dtls.sockaddr(Dtls.INADDR_ANY, CommandLine.arguments.dropFirst().first.flatMap { Int($0) } ?? 3000)
let dtls = try Dtls.createServer(option, saddr)
print("Listening on:", try dtls.sockName())

while true {
    var remoteAddr: DtlsAddress?
    let dtlsNew = try dtls.accept(&remoteAddr)
    print("New remote connected:", dtlsNew.remote)

    var buf = [UInt8](repeating: 0, count: 1024)
    do {
        while true {
            let num = try dtlsNew.recv(&buf)
            print("Client:", dtlsNew.remote.addr, "Say:", String(decoding: buf[..<num], as: UTF8.self))
            try dtlsNew.send(buf, offset: 0, length: num)
        }
    } catch {
        print("Client lost:", dtlsNew.remote, error)
        dtlsNew.close()
    }
}
