import Foundation
import LinuxSystem
import Testing

@Suite struct ConnectedLookupTests {
    /// Linux 6.13 has brought it, for both families and for IPv4 over IPv6 sockets.
    @Test(arguments: ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"])
    func `connected sockets are found first`(_ text: String) throws {
        let address = try #require(SocketAddress(text))
        let version = ProcessInfo.processInfo.operatingSystemVersion
        let isNewEnough = (version.majorVersion, version.minorVersion) >= (6, 13)
        #expect(UDPSocket.findsConnectedFirst(like: address) == isNewEnough)
    }
}
