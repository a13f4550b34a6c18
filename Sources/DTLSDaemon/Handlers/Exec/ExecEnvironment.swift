import DTLSEngine
import DTLSTransport
import LinuxSystem

/// What a program (handler "exec") finds in its environment: nothing of the daemon's own. The names are those of CGI
/// (RFC 3875) and of Apache's mod_ssl, which stunnel uses too; config/dtlsd.toml lists them.
enum ExecEnvironment {
    /// Bytes of a longest value.
    static let maximumValueBytes = 4_096

    static func variables(of connection: Connection, _ service: ServiceRuntime) -> [String: String] {
        let engine = connection.engine
        var variables = variables(peerIdentity: engine.peerName, serverName: engine.serverName)
        variables["DTLSD_SERVICE"] = service.configuration.name
        variables["REMOTE_ADDR"] = connection.peer.host
        variables["REMOTE_PORT"] = "\(connection.peer.port)"
        variables["SERVER_ADDR"] = connection.local.host
        variables["SERVER_PORT"] = "\(connection.local.port)"
        variables["SSL_PROTOCOL"] = engine.version
        variables["SSL_CIPHER"] = engine.cipher
        variables["SSL_SESSION_RESUMED"] = engine.isResumed ? "Resumed" : "Initial"
        return variables
    }

    /// The part that holds the client's own words.
    static func variables(peerIdentity: PeerName?, serverName: String?) -> [String: String] {
        let words = [
            "SSL_TLS_SNI": serverName,
            "SSL_CLIENT_S_DN": peerIdentity?.subject,
            "SSL_CLIENT_S_DN_CN": peerIdentity?.commonName,
            "SSL_CLIENT_FINGERPRINT": peerIdentity?.fingerprint,
            "SSL_CLIENT_PSK_IDENTITY": peerIdentity?.presharedKeyIdentity,
        ]
        var variables = words.compactMapValues { $0.flatMap { isFit($0) ? $0 : nil } }
        variables["SSL_CLIENT_VERIFY"] = peerIdentity == nil ? "NONE" : "SUCCESS"
        variables["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables["LANG"] = "C.UTF-8"
        return variables
    }

    /// What is too long or holds control characters is left out whole: a part of a name can be somebody else's name,
    /// and scripts take a line for a value.
    private static func isFit(_ value: String) -> Bool {
        value.utf8.count <= maximumValueBytes && value.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7f }
    }
}
