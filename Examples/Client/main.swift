// The client of the reference: it connects, says two things, and closes.
// Usage: Client [address [port]], in a folder with ca.pem.
import DTLSKit
import Glibc

let option = DtlsClientOption(
    rejectUnauthorized: false,
    ca: try Dtls.readString("./ca.pem")
)

let arguments = CommandLine.arguments
let saddr = try Dtls.sockaddr(
    arguments.count > 1 ? arguments[1] : "192.168.0.2", arguments.count > 2 ? Int(arguments[2]) ?? 2049 : 2049)

let client = try Dtls.createClient(option, saddr) { result, remote in
    do {
        let client = try result.get()
        print("Connected:", remote)
        try client.send("Hello I am client ^_^")
        try client.send("Goodbye!")
        client.close()
        exit(0)
    } catch {
        print("connect error:", error)
        exit(1)
    }
}

while true {
    try iosched.poll()
}
