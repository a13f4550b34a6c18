import DTLSKit
import Foundation
import Testing

/// Walks the table of the reference's rows: each has an implementation, and none of the reference is left out.
@Suite(.serialized) struct ReferenceTableTests {
    /// The implementations, by the symbol that the table names: a row without one does not compile, or is not found.
    private let implementations: [String: Any] = [
        "Dtls/createServer(_:_:)": Dtls.createServer as (DtlsServerOption, DtlsAddress) throws(DtlsError) -> DtlsServer,
        "DtlsServerOption/name": \DtlsServerOption.name,
        "DtlsServerOption/ca": \DtlsServerOption.ca,
        "DtlsServerOption/cert": \DtlsServerOption.cert,
        "DtlsServerOption/key": \DtlsServerOption.key,
        "DtlsServerOption/passwd": \DtlsServerOption.passwd,
        "DtlsServerOption/ipcert": \DtlsServerOption.ipcert,
        "DtlsServerOption/renegotiate": \DtlsServerOption.renegotiate,
        "DtlsServerOption/handshakeTimeout": \DtlsServerOption.handshakeTimeout,
        "Dtls/createClient(_:_:timeout:)": Dtls.createClient(_:_:timeout:),
        "Dtls/createClient(_:_:timeout:_:)": Dtls.createClient(_:_:timeout:_:),
        "DtlsClientOption/rejectUnauthorized": \DtlsClientOption.rejectUnauthorized,
        "DtlsClientOption/loadDefaultCerts": \DtlsClientOption.loadDefaultCerts,
        "DtlsClientOption/server": \DtlsClientOption.server,
        "DtlsClientOption/cert": [\DtlsClientOption.cert, \DtlsClientOption.key, \DtlsClientOption.passwd],
        "Dtls/createByFd(_:_:timeout:)": Dtls.createByFd(_:_:timeout:),
        "Dtls/createByFd(_:_:_:)": Dtls.createByFd(_:_:_:),
        "DtlsSocket/sockFd": \DtlsSocket.sockFd,
        "DtlsServer/accept(_:timeout:)": { (server: DtlsServer, remote: inout DtlsAddress?) in
            try server.accept(&remote, timeout: nil)
        },
        "DtlsServer/accept(_:)": DtlsServer.accept
            as (DtlsServer) -> (((DtlsConnection, DtlsAddress) -> Void)?) -> Void,
        "DtlsServer/addcert(_:)": DtlsServer.addcert,
        "DtlsConnection/send(_:timeout:)": DtlsConnection.send(_:timeout:),
        "DtlsConnection/send(_:offset:length:timeout:)": DtlsConnection.send(_:offset:length:timeout:),
        "DtlsConnection/recv(_:offset:length:timeout:)": { (connection: DtlsConnection, buffer: inout [UInt8]) in
            try connection.recv(&buffer, offset: 0, length: nil, timeout: nil)
        },
        "DtlsConnection/pending()": DtlsConnection.pending,
        "DtlsSocket/error()": DtlsSocket.error,
        "DtlsSocket/close()": DtlsSocket.close,
        "DtlsConnection/flyAway()": DtlsConnection.flyAway,
        "DtlsSocket/sockName()": DtlsSocket.sockName,
        "DtlsSocket/peerName()": DtlsSocket.peerName,
        "DtlsSocket/bindToDevice(_:)": DtlsSocket.bindToDevice,
        "DtlsSocket/setTTL(_:)": DtlsSocket.setTTL,
        "DtlsSocket/setIPv6Only(_:)": DtlsSocket.setIPv6Only,
        "DtlsSocket/getRecvBufferSize()": DtlsSocket.getRecvBufferSize,
        "DtlsSocket/getSendBufferSize()": DtlsSocket.getSendBufferSize,
        "DtlsSocket/setRecvBufferSize(_:)": DtlsSocket.setRecvBufferSize,
        "DtlsSocket/setSendBufferSize(_:)": DtlsSocket.setSendBufferSize,
        "Dtls/sockaddr(_:_:)": Dtls.sockaddr,
        "Dtls/sockaddr6(_:_:)": Dtls.sockaddr6,
        "Dtls/AF_INET": Dtls.AF_INET,
        "Dtls/AF_INET6": Dtls.AF_INET6,
        "Dtls/INADDR_NONE": Dtls.INADDR_NONE,
        "Dtls/INADDR_LOOPBACK": Dtls.INADDR_LOOPBACK,
        "Dtls/INADDR_ANY": Dtls.INADDR_ANY,
        "Dtls/INADDR_BROADCAST": Dtls.INADDR_BROADCAST,
        "Dtls/IN6ADDR_ANY": Dtls.IN6ADDR_ANY,
        "Dtls/IN6ADDR_LOOPBACK": Dtls.IN6ADDR_LOOPBACK,
        "Dtls/IN6ADDR_NODELOCAL_ALLNODES": Dtls.IN6ADDR_NODELOCAL_ALLNODES,
        "Dtls/IN6ADDR_LINKLOCAL_ALLNODES": Dtls.IN6ADDR_LINKLOCAL_ALLNODES,
        "Dtls/IN6ADDR_LINKLOCAL_ALLROUTERS": Dtls.IN6ADDR_LINKLOCAL_ALLROUTERS,
        "Iosched/poll(timeout:)": Iosched.poll,
        "Iosched/forever()": Iosched.forever,
        "Iosched/event(_:_:_:)": Iosched.event,
        "Iosched/add(_:)": Iosched.add,
        "Iosched/remove(_:)": Iosched.remove,
        "DtlsTask/init(_:)": DtlsTask.init,
        "DtlsTask/send(_:)": DtlsTask.send,
        "DtlsTask/onMessage(_:)-type.method":
            DtlsTask.onMessage as (@escaping (TaskValue) -> Void) throws(DtlsError) -> Void,
        "DtlsTask/recv(timeout:)": DtlsTask.recv,
        "Dtls/readString(_:)": Dtls.readString,
    ]

    /// The list under "Support" of the reference's page, its two forms of calls, and its constants.
    private static let reference = [
        "Dtls.createServer(opt, sockaddr)", "Dtls.createClient(opt, sockaddr[, timeout])",
        "Dtls.createClient(opt, sockaddr, callback)", "Dtls.createByFd(name, sockFd[, timeout])",
        "Dtls.createByFd(name, sockFd, callback)", "dtls.sockFd", "dtls.accept([remoteAddr[, timeout]])",
        "dtls.addcert(opt)", "dtls.accept(unused, callback)", "dtls.send(string[, timeout])",
        "dtls.send(buffer[, offset[, length[, timeout]]])", "dtls.recv(buffer[, offset[, length[, timeout]]])",
        "dtls.pending()", "dtls.error()", "dtls.close()", "dtls.flyAway()", "dtls.sockName()", "dtls.peerName()",
        "dtls.bindToDevice([ifname])", "dtls.setTTL(timeToLive)", "dtls.setIPv6Only(enable)",
        "dtls.getRecvBufferSize()", "dtls.getSendBufferSize()", "dtls.setRecvBufferSize(size)",
        "dtls.setSendBufferSize(size)", "Dtls.sockaddr(addr, port)", "Dtls.sockaddr6(addr, port)", "Dtls.AF_INET",
        "Dtls.AF_INET6", "Dtls.INADDR_NONE", "Dtls.INADDR_LOOPBACK", "Dtls.INADDR_ANY", "Dtls.INADDR_BROADCAST",
        "Dtls.IN6ADDR_ANY", "Dtls.IN6ADDR_LOOPBACK", "Dtls.IN6ADDR_NODELOCAL_ALLNODES",
        "Dtls.IN6ADDR_LINKLOCAL_ALLNODES", "Dtls.IN6ADDR_LINKLOCAL_ALLROUTERS", "opt.name", "opt.ca", "opt.cert",
        "opt.key", "opt.passwd", "opt.ipcert", "opt.renegotiate", "opt.handshakeTimeout", "opt.rejectUnauthorized",
        "opt.loadDefaultCerts", "opt.server",
    ]

    private func rows() throws -> [(reference: String, symbol: String, difference: String)] {
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../../Sources/DTLSKit/DTLSKit.docc/ReferenceTable.md")
        return try String(contentsOf: file, encoding: .utf8).split(separator: "\n")
            .filter { $0.hasPrefix("| `") }
            .map { line in
                let cells = line.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
                try #require(cells.count == 3, "\(line)")
                let symbol = cells[1].trimmingCharacters(in: CharacterSet(charactersIn: "`"))
                return (cells[0].trimmingCharacters(in: CharacterSet(charactersIn: "`")), symbol, cells[2])
            }
    }

    @Test func `every row of the table has an implementation`() throws {
        for row in try rows() {
            #expect(implementations[row.symbol] != nil, "\(row.reference): there is no \(row.symbol)")
            #expect(!row.difference.isEmpty, "\(row.reference): where it differs is not said")
        }
    }

    @Test func `every row of the reference is in the table`() throws {
        let present = try rows().map(\.reference)
        #expect(Set(present).count == present.count, "a row is there twice")
        for row in Self.reference { #expect(present.contains(row), "the table lacks \(row)") }
    }
}
