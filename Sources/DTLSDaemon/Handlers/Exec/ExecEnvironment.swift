import DTLSEngine
import DTLSTransport
import LinuxSystem

/// The environment of a program (handler "exec"). It has nothing of the daemon's own environment. The names are those of
/// CGI (RFC 3875) and of Apache's mod_ssl, which stunnel uses too; config/dtlsd.toml lists them.
enum ExecEnvironment {
    /// Bytes of the longest value.
    static let maximumValueBytes = 4_096

    static func variables(of client: ServedClient, _ service: ServiceRuntime) -> [String: String] {
        let session = client.session
        var variables = variables(peerIdentity: session.peerName, serverName: session.serverName)
        variables["DTLSD_SERVICE"] = service.configuration.name
        variables["DTLSD_LABEL"] = session.label
        variables["REMOTE_ADDR"] = client.flow.peer.host
        variables["REMOTE_PORT"] = "\(client.flow.peer.port)"
        variables["SERVER_ADDR"] = client.flow.local.host
        variables["SERVER_PORT"] = "\(client.flow.local.port)"
        variables["SSL_PROTOCOL"] = session.version
        variables["SSL_CIPHER"] = session.cipher
        variables["SSL_SESSION_RESUMED"] = session.isResumed ? "Resumed" : "Initial"
        return variables
    }

    /// The variables whose values the client has chosen.
    static func variables(peerIdentity: PeerName?, serverName: String?) -> [String: String] {
        let words = [
            "SSL_TLS_SNI": serverName,
            "SSL_CLIENT_S_DN": peerIdentity?.subject,
            "SSL_CLIENT_S_DN_CN": peerIdentity?.commonName,
            "SSL_CLIENT_FINGERPRINT": peerIdentity?.fingerprint,
            "SSL_CLIENT_KEY_NAME": peerIdentity?.publicKeyName,
            "SSL_CLIENT_PSK_IDENTITY": peerIdentity?.presharedKeyIdentity,
        ]
        var variables = words.compactMapValues { $0.flatMap { isValid($0) ? $0 : nil } }
        variables["SSL_CLIENT_VERIFY"] = peerIdentity == nil ? "NONE" : "SUCCESS"
        variables["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables["LANG"] = "C.UTF-8"
        return variables
    }

    /// A value that is too long or holds control characters is left out as a whole: a part of a name can be another
    /// client's name, and scripts take each line for a value.
    private static func isValid(_ value: String) -> Bool {
        value.utf8.count <= maximumValueBytes && value.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7f }
    }
}
