import ArgumentParser
import DTLSEngine
import DTLSKit
import Glibc
import LinuxSystem
import Primitives

/// Whom a client trusts, what it proves itself by, and how it speaks: all options that DTLSKit has for clients.
struct ClientOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Trust the CAs in this PEM file, in place of the system's.", valueName: "file"))
    var ca: String?

    @Flag(help: "Trust the system's CAs beside those of --ca.")
    var systemCa = false

    @Flag(help: "Take any certificate. What is wrong with it is said all the same.")
    var insecure = false

    @Option(
        help: ArgumentHelp(
            "Ask for this name (SNI) and check the certificate for it, in place of HOST.", valueName: "name"))
    var serverName: String?

    @Option(help: ArgumentHelp("The client's own certificate and chain, PEM.", valueName: "file"))
    var cert: String?

    @Option(
        help: ArgumentHelp(
            "The private key of --cert, PEM; without it, it is in the file of --cert.", valueName: "file"))
    var key: String?

    @Option(help: ArgumentHelp("A file with the password of the private key.", valueName: "file"))
    var keyPasswordFile: String?

    @Option(
        help: ArgumentHelp(
            "A pre-shared key, hexadecimal or text. Everybody on this machine can read it in the list of processes: prefer"
                + " --psk-file, or the variable DTLS_PSK with the same text.", valueName: "identity:key"))
    var psk: String?

    @Option(help: ArgumentHelp("A file of pre-shared keys, as `dtls psk` writes it.", valueName: "file"))
    var pskFile: String?

    @Option(help: ArgumentHelp("The identity in --psk-file; without it, the first one.", valueName: "identity"))
    var pskIdentity: String?

    @Option(
        help: ArgumentHelp(
            "Offer this application protocol (ALPN); may be given several times, best first.", valueName: "protocol"))
    var alpn: [String] = []

    @Option(help: ArgumentHelp("An OpenSSL cipher list.", valueName: "list"))
    var ciphers: String?

    @Option(
        help: ArgumentHelp(
            "The groups for the key exchange, best first, and for ECDSA certificates: X25519:P-256.", valueName: "list")
    )
    var groups: String?

    @Option(help: ArgumentHelp("The oldest version, 1.0 or 1.2.", valueName: "version"))
    var minVersion: DtlsVersion = .dtls12

    @Option(help: ArgumentHelp("The newest version, 1.0 or 1.2.", valueName: "version"))
    var maxVersion: DtlsVersion?

    @Option(
        help: ArgumentHelp(
            "Ask the server for a connection ID of 0 to 20 bytes (RFC 9146); 0 only lets the server have one.",
            valueName: "bytes"))
    var connectionId: Int?

    @Flag(help: "Let the server ask to renegotiate.")
    var renegotiate = false

    @Option(help: ArgumentHelp("The largest IP packet of the handshake, 256 to 4096.", valueName: "bytes"))
    var mtu = 1_400

    @Option(help: ArgumentHelp("Give up when there is no connection after so many seconds.", valueName: "seconds"))
    var timeout = 10.0

    func validate() throws {
        guard timeout >= 0.1, timeout <= 120 else { throw ValidationError("--timeout must be 0.1 to 120 seconds.") }
        if [psk != nil, pskFile != nil].count(where: { $0 }) > 1 {
            throw ValidationError("--psk and --psk-file exclude each other.")
        }
        if pskIdentity != nil, pskFile == nil { throw ValidationError("--psk-identity needs --psk-file.") }
        if key != nil, cert == nil { throw ValidationError("--key needs --cert.") }
        if keyPasswordFile != nil, cert == nil { throw ValidationError("--key-password-file needs --cert.") }
        if insecure, ca != nil { throw ValidationError("--insecure and --ca exclude each other.") }
    }
}

extension DtlsVersion: ExpressibleByArgument {}

extension ClientOptions {
    var patience: Duration { .nanoseconds(Int64(timeout * 1e9)) }

    /// The options for DTLSKit; reads the files that are named.
    func dtlsOption(for destination: Destination) throws(TalkingFailure) -> DtlsClientOption {
        var option = DtlsClientOption(rejectUnauthorized: !insecure)
        option.loadDefaultCerts = ca == nil || systemCa
        option.ca = try ca.map(Self.readText)
        option.server = serverName ?? destination.certificateName
        option.renegotiate = renegotiate
        // The command has its own patience, which may be shorter than what the library has for handshakes.
        option.handshakeTimeout = 120_000
        option.cert = try cert.map(Self.readText)
        option.key = try key.map(Self.readText)
        option.passwd = try keyPasswordFile.map(Self.readLine)
        option.presharedKey = try presharedKey()
        option.connectionID = connectionId
        option.ciphers = ciphers
        option.groups = groups
        option.minimumVersion = minVersion
        option.maximumVersion = maxVersion
        option.applicationProtocols = alpn
        option.mtu = mtu
        return option
    }

    private static func readText(_ path: String) throws(TalkingFailure) -> String {
        do throws(DtlsError) { return try Dtls.readString(path) } catch { throw .local(error) }
    }

    /// A file's first line, without what ends it.
    private static func readLine(_ path: String) throws(TalkingFailure) -> String {
        String(try readText(path).prefix { $0 != "\n" && $0 != "\r\n" })
    }

    private func presharedKey() throws(TalkingFailure) -> DtlsPresharedKey? {
        if let psk {
            Standard.error("dtls: --psk shows the key to everybody on this machine; prefer --psk-file or $DTLS_PSK\n")
            return try Self.presharedKey(in: Array(psk.utf8), "--psk")
        }
        if let pskFile {
            let bytes: [UInt8]
            do throws(SystemError) { bytes = try TextFile.read(pskFile, limit: PresharedKeyEditor.maximumSize) } catch {
                throw .local(error.description)
            }
            return try Self.presharedKey(in: bytes, pskFile, identity: pskIdentity)
        }
        guard let variable = getenv("DTLS_PSK") else { return nil }
        return try Self.presharedKey(in: Array(String(cString: variable).utf8), "DTLS_PSK")
    }

    static func presharedKey(
        in bytes: [UInt8], _ source: String, identity: String? = nil
    ) throws(TalkingFailure) -> DtlsPresharedKey {
        // The server says how short a key may be.
        let (keys, problems) = PresharedKeyFile.parse(bytes, minimumKeyLength: 1)
        if keys.isEmpty || identity == nil, let problem = problems.first {
            throw .local("\(source), line \(problem.line): \(problem.message)")
        }
        let found = identity == nil ? keys.first : keys.first { PresharedKeys.text(of: $0.identity) == identity }
        guard let found else {
            throw .local(
                identity.map { "\(source) has no identity \(Printable.quoted($0))" }
                    ?? "\(source) has no pre-shared key in it; expected IDENTITY:KEY")
        }
        return DtlsPresharedKey(identity: found.identity, key: found.key)
    }
}
