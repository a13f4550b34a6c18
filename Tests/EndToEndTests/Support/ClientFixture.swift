import Foundation
import LinuxSystem
import TestSupport

/// Text of a `[client.NAME]` table.
struct Client {
    var name = "out"
    var listen: SocketAddress
    var connect: SocketAddress
    /// A PEM file; `nil`: no `ca`.
    var trust: String?
    /// More keys of the table, and sub-tables, as they are written in the file.
    var more = ""

    var text: String {
        """
        [client.\(name)]
        listen = "\(listen)"
        connect = "\(connect)"
        \(trust.map { "ca = \"\($0)\"" } ?? "")
        \(more)

        """
    }
}

/// What the tests of client mode have in common: two addresses, and who is who.
struct ClientFixture {
    let folder: TestFolder
    let certificates: CertificateMaker
    let identity: Identity
    /// Where plain datagrams come in.
    let front: SocketAddress
    /// Where the server is.
    let back: SocketAddress

    init() async throws {
        folder = try TestFolder()
        certificates = CertificateMaker(folder: folder)
        identity = try await certificates.selfSigned("server")
        front = try SocketAddress.freeOnOwnLoopback()
        back = try SocketAddress.freeOnOwnLoopback()
    }

    func client(more: String = "server_name = \"localhost\"", workers: Int = 1) -> String {
        "workers = \(workers)\n"
            + Client(listen: front, connect: back, trust: identity.certificate, more: more).text
    }

    /// A second dtlsd, as the server.
    func serverDaemon(_ text: String? = nil) async throws -> Daemon {
        try await Daemon.start(
            text ?? Service(listen: [back], identity: identity).text, in: try TestFolder())
    }
}
