import ArgumentParser
import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// `dtls cert`: certificates for development.
struct CertCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cert",
        abstract: "Make a development CA, a server certificate and a client certificate.",
        discussion: """
            Writes ca.pem, server.pem and client.pem with their keys ca.key, server.key and client.key (mode 0600) into a \
            folder. Nothing that is there is overwritten without --force. Who has ca.key can make certificates that all take \
            who trust ca.pem: for the public, take a certificate of a public CA.
            """
    )

    @Option(help: ArgumentHelp("The folder; it is made where there is none.", valueName: "folder"))
    var out: String

    @Option(
        name: .customLong("name"),
        help: ArgumentHelp(
            "A host name or IP address of the server; may be given several times. Without one: localhost, 127.0.0.1 and ::1.",
            valueName: "host"))
    var names: [String] = []

    @Option(help: ArgumentHelp("The common name of the client's certificate.", valueName: "name"))
    var client = "client"

    @Option(help: ArgumentHelp("How long the certificates are valid.", valueName: "days"))
    var days = 365

    @Option(help: "The kind of the keys: ec (P-256) or rsa (2048 bits).")
    var key: IssuedCertificate.KeyKind = .ec

    @Flag(help: "Replace files that are there.")
    var force = false

    /// X.520's bound for a common name.
    private static let longestName = 64

    func validate() throws {
        guard (1...36_500).contains(days) else { throw ValidationError("--days must be 1 to 36500.") }
        guard !client.isEmpty, client.utf8.count <= Self.longestName else {
            throw ValidationError("--client must have 1 to \(Self.longestName) bytes.")
        }
        for name in names where Self.alternativeName(name) == nil {
            throw ValidationError("--name \(Printable.quoted(name)) is neither a host name nor an IP address.")
        }
    }

    /// `DNS:…` or `IP:…`; `nil` where the text is neither.
    static func alternativeName(_ text: String) -> String? {
        if SocketAddress(host: text, port: 0) != nil { return text.contains("%") ? nil : "IP:\(text)" }
        let isHost =
            (1...253).contains(text.utf8.count)
            && text.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
                    UInt8(ascii: "*"):
                    true
                default: false
                }
            }
        return isHost ? "DNS:\(text)" : nil
    }

    func run() throws {
        do throws(TalkingFailure) { try make() } catch { throw error.report("cert") }
    }

    private func make() throws(TalkingFailure) {
        let names = self.names.isEmpty ? ["localhost", "127.0.0.1", "::1"] : self.names
        let files: [(name: String, text: String, isSecret: Bool)]
        do throws(OpenSSLError) {
            let lifetime = Duration.seconds(days * 86_400)
            // The hash of the name keeps two CAs of one machine apart: OpenSSL finds issuers by their names.
            let mark = Hexadecimal.text((0..<4).map { _ in UInt8.random(in: .min ... .max) })
            let authority = try IssuedCertificate(
                .authority, commonName: "Development CA \(mark)", names: [], lifetime: lifetime, key: key)
            let server = try IssuedCertificate(
                .server, commonName: String(names[0].prefix(Self.longestName)),
                names: names.compactMap(Self.alternativeName), lifetime: lifetime, key: key, issuer: authority)
            let client = try IssuedCertificate(
                .client, commonName: client, names: [], lifetime: lifetime, key: key, issuer: authority)
            files = [("ca", authority), ("server", server), ("client", client)].flatMap { name, certificate in
                [("\(name).pem", certificate.pem, false), ("\(name).key", certificate.privateKeyPEM, true)]
            }
        } catch {
            throw .local("no certificate can be made: \(error)")
        }
        try write(files)
        Standard.output(summary(names))
    }

    private func write(_ files: [(name: String, text: String, isSecret: Bool)]) throws(TalkingFailure) {
        guard mkdir(out, 0o755) == 0 || errno == EEXIST else {
            throw .local("\(SystemError("mkdir", out, errno: errno))")
        }
        let present = files.map(\.name).filter { PrivateFile.exists("\(out)/\($0)") }
        guard force || present.isEmpty else {
            throw .local("\(present.joined(separator: ", ")) in \(out) would be overwritten; --force does so")
        }
        do throws(SystemError) {
            for file in files {
                try PrivateFile.replace(
                    "\(out)/\(file.name)", with: Array(file.text.utf8), mode: file.isSecret ? 0o600 : 0o644)
            }
        } catch {
            throw .local("\(error)")
        }
    }

    private func summary(_ names: [String]) -> String {
        let folder = TerminalText.printable(
            realpath(out, nil).map { path in
                defer { free(path) }
                return String(cString: path)
            } ?? out)
        let host = names[0].contains(":") ? "[\(names[0])]" : names[0]
        return """
            \(folder)/ca.pem      the CA, for clients and for the key ca of dtlsd
            \(folder)/ca.key      its key: keep it to yourself
            \(folder)/server.pem  for \(names.joined(separator: ", ")), valid for \(counted(days, "day"))
            \(folder)/server.key
            \(folder)/client.pem  for a client that is called \(TerminalText.printable(client))
            \(folder)/client.key

            In dtlsd.toml:
              certificate = "\(folder)/server.pem"
              private_key = "\(folder)/server.key"
            Try it:
              dtls connect --ca \(folder)/ca.pem \(host):PORT

            """
    }
}

extension IssuedCertificate.KeyKind: ExpressibleByArgument {}
