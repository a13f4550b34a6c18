import Testing

@testable import DTLSDaemon

/// What a loader is left with besides reading, by the keys of the file.
@Suite struct LoaderNeedsTests {
    @Test(arguments: [
        ("", false, false, false),
        ("# user = \"a\"\n[service.user]\ngroup = \"a\"\nnote = \"key_log_file = 1\"\n", false, false, false),
        ("key_log_file = \"/keys\"\n", true, false, false),
        ("\"key_log_file\" = \"/keys\"\n", true, false, false),
        ("user = \"a\"\n", false, true, true),
        ("'user' = \"a\"\ngroup = \"1\"\n", false, true, true),
        ("[control]\ngroup = \"a\"\n", false, true, false),
        ("control.group = \"a\"\n", false, true, false),
        ("control = { group = \"a\" }\n", false, true, false),
        ("[control]\npath = \"group\"\n", false, false, false),
    ])
    func `a loader is left with what the keys take, and no text that is no key counts`(
        _ text: String, keyLog: Bool, accounts: Bool, user: Bool
    ) {
        let needs = LoaderNeeds(KeyLines(Array(text.utf8)))
        #expect(needs.keyLog == keyLog)
        #expect(needs.accounts == accounts)
        #expect(needs.user == user)
    }

    @Test(arguments: [
        ("[service.a.forward]\nsource = \"192.0.2.1\"\n", true),
        ("service.a.forward.source = [\n\"192.0.2.1\"\n]\n", true),
        ("[client.a]\n\"source\" = \"192.0.2.1\"\n", true),
        ("[service.a]\nforward = { source = \"192.0.2.1\" }\n", true),
        ("service = { a = { forward = { source = \"192.0.2.1\" } } }\n", true),
        ("[service.source]\nnote = \"source\"\n[client.source]\n# source = 1\n", false),
        ("control = { source = 1 }\n[log]\nsource = 1\n", false),
    ])
    func `a loader is left with UDP where addresses to send from are given`(_ text: String, sources: Bool) {
        #expect(LoaderNeeds(KeyLines(Array(text.utf8))).sources == sources)
    }
}
