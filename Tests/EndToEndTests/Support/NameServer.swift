import Foundation
import LinuxSystem
import TestSupport

/// dnsmasq as a name server that has a few names of `.example`, and can be told others while it runs.
final class NameServer: Sendable {
    let address: SocketAddress
    private let folder: TestFolder
    private let program: Program

    /// - Parameters:
    ///   - names: host names and their addresses; a name may be there several times.
    ///   - timeToLive: of all answers, in seconds.
    init(_ names: [(String, String)], timeToLive: Int = 1, in folder: TestFolder) async throws {
        self.folder = folder
        address = try SocketAddress.freeOnOwnLoopback()
        try Self.write(names, in: folder)
        program = try await ForeignProgram.serve(
            ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--log-facility=-"]
                + ["--port=\(address.port)", "--listen-address=\(address.host)", "--bind-interfaces"]
                + [
                    "--no-resolv", "--no-hosts", "--user=", "--group=", "--local=/example/",
                    "--local-ttl=\(timeToLive)",
                ]
                + ["--addn-hosts=\(folder.file("hosts"))"],
            on: address, in: folder, name: "dnsmasq")
    }

    private static func write(_ names: [(String, String)], in folder: TestFolder) throws {
        try folder.write(names.map { "\($0.1) \($0.0)\n" }.joined(), to: "hosts")
    }

    /// Has these names from now on, and no others.
    func replace(with names: [(String, String)]) throws {
        try Self.write(names, in: folder)
        program.signal(SIGHUP)
    }

    func stop() async throws {
        program.signal(SIGTERM)
        _ = try await program.ended()
    }

    /// What makes dtlsd ask this server.
    var configuration: String { "resolver.servers = \"\(address)\"\n" }
}
