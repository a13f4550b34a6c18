import TestSupport
import Testing

extension EndToEnd {
    @Suite struct KeyLogPlaceTests {
        /// Root may write to every folder, as far as the loader can ask; that /sys takes no files shows when one is
        /// made.
        @Test func `a file that cannot be made is named with the line of its key`() async throws {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let service = Service(listen: [try .freeOnOwnLoopback()], identity: identity).text
            let file = try folder.write("\nkey_log_file = \"/sys/keys.log\"\n" + service, to: "place.toml")
            let program = try Program([Daemon.binary, "--config", file], in: folder)
            #expect(try await program.ended() == .exited(78))
            #expect(
                (program.errors + program.output).contains("place.toml:2: key_log_file: cannot "), "\(program.errors)")
        }
    }
}
