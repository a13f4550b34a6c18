import Testing

@testable import DTLSDaemon

/// Texts with wildcards.
@Suite struct BytePatternTests {
    @Test(arguments: [
        ("abc", ["abc"], ["", "ab", "abcd", "xabc", "ABC"]),
        ("*", ["", "a", "abc"], []),
        ("a*", ["a", "ab", "a*"], ["", "ba"]),
        ("*a", ["a", "ba", "aa"], ["", "ab"]),
        ("a*a", ["aa", "aba", "aaa"], ["a", "ab"]),
        ("*.example.org", ["x.example.org", "a.b.example.org", ".example.org"], ["example.org", "x.example.org."]),
        ("a*b*c", ["abc", "axbxc", "abbc", "abcbc"], ["ac", "acb", "axcxb"]),
        ("*ab*ab*", ["abab", "xabyabz", "aabab"], ["ab", "aba", "abxa"]),
        ("a**b", ["ab", "axb"], ["a", "b"]),
        ("*aab*", ["aaab", "aaaab"], ["aba"]),
        (#"a\*b"#, ["a*b"], ["axb", "ab"]),
        (#"\\*"#, [#"\"#, #"\x"#], ["x"]),
        ("", [""], ["a"]),
    ])
    func `a pattern fits what it stands for`(_ pattern: String, _ fitting: [String], _ others: [String]) throws {
        let pattern = try BytePattern(pattern)
        for text in fitting { #expect(pattern.matches(text), "\(text)") }
        for text in others { #expect(!pattern.matches(text), "\(text)") }
    }

    @Test func `upper and lower case are equal where that is asked for`() throws {
        #expect(try BytePattern("*.Example.ORG").lowercased.matches("a.example.org"))
        #expect(try !BytePattern("*.Example.ORG").matches("a.example.org"))
    }

    @Test(arguments: [#"a\"#, #"\n"#, #"a\b*"#])
    func `a backslash before another character is refused`(_ text: String) {
        #expect(throws: BytePattern.Mistake(description: "a backslash stands before * or another backslash only")) {
            try BytePattern(text)
        }
    }
}
