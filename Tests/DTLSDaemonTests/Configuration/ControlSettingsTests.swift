import Glibc
import Testing

@testable import DTLSDaemon

/// The table `[control]`.
@Suite struct ControlSettingsTests {
    private static let service = """

        [service.a]
        certificate = "server.pem"
        private_key = "server.key"
        handler = "echo"
        """

    @Test func `the settings are read`() throws {
        let folder = try ConfigurationFolder()
        var control = try folder.read(Self.service).control
        #expect(control == ControlConfiguration() && control.mode == 0o660)
        control = try folder.read(
            "[control]\npath = \"/run/other.sock\"\nmode = \"0600\"\ngroup = \"4\"" + Self.service
        ).control
        #expect(control == ControlConfiguration(path: "/run/other.sock", mode: 0o600, group: 4))
        #expect(control.socketPath == "/run/other.sock")
        control = try folder.read("control = { path = \"\", mode = \"666\", group = \"root\" }" + Self.service).control
        #expect(control == ControlConfiguration(path: "", mode: 0o666, group: 0))
        #expect(control.socketPath == nil)
    }

    @Test func `wrong settings are named with their lines, all at once`() throws {
        let folder = try ConfigurationFolder()
        let problems = try folder.problems(
            """
            [control]
            path = "run/dtlsd.sock"
            mode = "0888"
            group = "no-such-group"
            owner = "root"
            """ + Self.service)
        #expect(problems.count == 4)
        for (line, part) in [
            ("2: control.path", "expected the absolute path of a Unix socket, at most 107 bytes, or \"\" for none"),
            ("3: control.mode", "\"0600\" to \"0777\""), ("4: control.group", "there is no group \"no-such-group\""),
            ("5: control.owner", ""),
        ] {
            #expect(
                problems.contains { $0.hasPrefix("dtlsd.toml:\(line)") && $0.contains(part) }, "\(line): \(problems)")
        }
        for path in ["/" + String(repeating: "x", count: 107), "/run/", "relative"] {
            #expect(try folder.problems("control.path = \"\(path)\"" + Self.service).count == 1, "\(path)")
        }
        for mode in ["\"0066\"", "\"60\"", "\"1666\"", "432", "\"0o660\""] {
            #expect(try folder.problems("control.mode = \(mode)" + Self.service).count == 1, "\(mode)")
        }
    }
}
