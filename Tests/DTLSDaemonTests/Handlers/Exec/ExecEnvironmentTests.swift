import DTLSEngine
import Testing

@testable import DTLSDaemon

@Suite struct ExecEnvironmentTests {
    /// A part of a name can be another's name: what cannot be told whole is not told.
    @Test func `a client's words reach the environment whole or not at all`() {
        func variables(_ name: String) -> [String: String] {
            ExecEnvironment.variables(
                peerIdentity: PeerName(
                    commonName: name, subject: name, fingerprint: name, presharedKeyIdentity: name,
                    publicKeyName: name),
                serverName: name)
        }
        let names: Set = [
            "SSL_CLIENT_S_DN_CN", "SSL_CLIENT_S_DN", "SSL_CLIENT_FINGERPRINT", "SSL_CLIENT_PSK_IDENTITY",
            "SSL_CLIENT_KEY_NAME",
            "SSL_TLS_SNI",
        ]
        for good in ["sensor-7", "", "() { ä", String(repeating: "x", count: 4_096)] {
            #expect(variables(good).filter { $0.value == good && names.contains($0.key) }.count == names.count)
        }
        for bad in ["a\0b", "a\nADMIN=1", "a\u{7f}", "\t", String(repeating: "x", count: 4_097)] {
            #expect(Set(variables(bad).keys) == ["PATH", "LANG", "SSL_CLIENT_VERIFY"])
        }
        let none = ExecEnvironment.variables(peerIdentity: nil, serverName: nil)
        #expect(none["SSL_CLIENT_VERIFY"] == "NONE" && none.count == 3)
    }
}
