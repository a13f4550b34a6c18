import DTLSEngine
import TestSupport
import Testing

@testable import DTLSDaemon

/// The table `[service.NAME.authorize]`.
@Suite struct AuthorizeSettingsTests {
    private func service(_ lines: String) -> String {
        "[service.a]\nhandler = \"echo\"\ncertificate = \"server.pem\"\nprivate_key = \"server.key\"\n\(lines)\n"
    }

    @Test func `a string names the authorizer, and a table says more`() throws {
        let folder = try ConfigurationFolder()
        let short = try #require(try folder.read(service("authorize = \"unix:/run/a.sock\"")).services.first)
        #expect(short.authorize == AuthorizeConfiguration(path: "/run/a.sock"))
        #expect(short.tls.authorization == .all && short.tls.presharedKeys == nil)
        let long = try folder.read(
            service("authorize = { server = \"unix:/a\", timeout = 2.5, cache = 0, cache_time = \"1h\" }"))
        #expect(
            long.services.first?.authorize
                == AuthorizeConfiguration(
                    path: "/a", timeout: .milliseconds(2_500), cache: 0, cacheTime: .seconds(3_600)))
        let none = try #require(try folder.read(service("")).services.first)
        #expect(none.authorize == nil && none.tls.authorization == .none)
    }

    @Test func `the answers may have the pre-shared keys`() throws {
        let folder = try ConfigurationFolder()
        let text =
            "[service.a]\nhandler = \"echo\"\nauthorize = \"unix:/a\"\n[service.a.psk]\nhint = \"x\"\nminimum_key_bytes = 8\n"
        let service = try #require(try folder.read(text).services.first)
        #expect(service.tls.presharedKeys == PresharedKeys(keys: [], hint: Array("x".utf8)))
        #expect(service.authorize?.minimumKeyLength == 8 && service.tls.certifiedKeys.isEmpty)
        // Without an authorizer there have to be keys.
        #expect(
            try folder.problems(text.replacing("authorize = \"unix:/a\"\n", with: "")) == [
                "dtlsd.toml:3: service.a.psk.file: missing; expected the path of a file of identities and keys, as"
                    + " psktool writes it"
            ])
    }

    @Test(arguments: [
        (
            "authorize = \"/run/a.sock\"",
            "authorize: expected \"unix:/PATH\", a path of at most 107 bytes, or a table, found the string \"/run/a.sock\""
        ),
        (
            "authorize = 7", "authorize: expected \"unix:/PATH\", a path of at most 107 bytes, or a table, found 7"
        ),
        ("authorize = {}", "authorize.server: missing; expected \"unix:/PATH\", a path of at most 107 bytes"),
        (
            "authorize = { server = \"unix:/a\", timeout = 0.5 }",
            "authorize.timeout: expected a number of seconds, 1 to 60, or a time such as \"30s\", found 0.5"
        ),
        (
            "authorize = { server = \"unix:/a\", cache = -1 }",
            "authorize.cache: expected an integer of answers, 0 to 1000000, found -1"
        ),
        (
            "authorize = { server = \"unix:/a\", cache_time = 0 }",
            "authorize.cache_time: expected an integer of seconds, 1 to 86400, or a time such as \"12h\", found 0"
        ),
    ]) func `what cannot be used is told`(_ lines: String, _ message: String) throws {
        #expect(try ConfigurationFolder().problems(service(lines)) == ["dtlsd.toml:5: service.a.\(message)"])
    }

    @Test func `renegotiation, in which nobody is asked, is refused`() throws {
        let problems = try ConfigurationFolder().problems(
            service("authorize = \"unix:/a\"\nrenegotiation = true"))
        #expect(problems.count == 1)
        #expect(problems.first?.contains("service.a.authorize: nobody is asked in a renegotiation") == true)
    }
}
