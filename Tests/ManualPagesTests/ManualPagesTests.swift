import DTLSDaemon
import Foundation
import Testing

@testable import ManualPages

@Suite struct ManualPagesTests {
    private static let date = DocumentDate("2026-11-28")

    private func configurationText() throws -> String {
        let file = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../config/dtlsd.toml")
        let reference = ReferenceFile(try String(contentsOf: file, encoding: .utf8))
        return configurationPage(reference, date: try #require(Self.date)).text
    }

    @Test func `the page of the configuration has every section and key of the schema, with its type`() throws {
        let text = try configurationText()
        var rest = text[...]
        func advance(to line: String) throws {
            let found = try #require(rest.firstRange(of: line), "the page has no \(line) where it belongs")
            rest = rest[found.upperBound...]
        }
        for section in ConfigurationManual.sections {
            if !section.path.isEmpty {
                try advance(to: ".Sh " + MdocPage.argument(section.title) + "\n")
            }
            for key in section.keys where !key.isTable {
                try advance(to: ".It " + MdocPage.argument("`\(key.name)` (\(key.type))") + "\n")
            }
        }
        #expect(ConfigurationManual.sections.count > 10)
    }

    @Test func `explanations of the reference are in the page, with their defaults and examples`() throws {
        let text = try configurationText()
        #expect(text.contains("How long dtlsd may take to close its connections"))
        #expect(text.contains("\nDefault: 5\n.Bd -literal -offset indent\nstop_timeout = 5\n.Ed\n"))
        // Two keys have one explanation, which follows the second.
        #expect(text.components(separatedBy: "The oldest and the newest DTLS version that is used").count == 2)
        // No key of the page lacks an explanation.
        #expect(!text.contains("\n.El\n.El\n"))
    }

    @Test func `a line that roff would take for a macro or an escape is text`() throws {
        var page = MdocPage(name: "a", section: 1, summary: "b", date: try #require(Self.date))
        page.prose(["'quoted' .dot a\\b `--flag` ~ ü", "", "  .Sh literal", "", "- one", "  more", "- two"])
        #expect(
            page.text.hasSuffix(
                """
                .Nd \\&b
                \\(aqquoted\\(aq .dot a\\eb \\fB\\-\\-flag\\fR \\(ti \\[u00FC]
                .Bd -literal -offset indent
                \\&.Sh literal
                .Ed
                .Bl -bullet -compact
                .It
                one more
                .It
                two
                .El

                """))
        #expect(MdocPage.argument("Fl") == "\\&Fl" && MdocPage.argument("a \"b\"") == "\"a \\(dqb\\(dq\"")
    }

    @Test func `a program and each of its subcommands have a page with all options`() throws {
        let json = """
            {"serializationVersion": 0, "command": {"commandName": "dtls", "abstract": "Shows what dtlsd does.",
             "shouldDisplay": true, "arguments": [
                {"kind": "option", "shouldDisplay": true, "isOptional": true, "isRepeating": false,
                 "names": [{"kind": "short", "name": "s"}, {"kind": "long", "name": "socket"}],
                 "preferredName": {"kind": "long", "name": "socket"}, "valueName": "path", "defaultValue": "/run/x",
                 "abstract": "The control socket."},
                {"kind": "flag", "shouldDisplay": false, "isOptional": true, "isRepeating": false,
                 "names": [{"kind": "long", "name": "hidden"}]}],
             "subcommands": [
                {"commandName": "status", "abstract": "Show the state.", "shouldDisplay": true, "arguments": [
                    {"kind": "positional", "shouldDisplay": true, "isOptional": false, "isRepeating": true,
                     "valueName": "service"}]},
                {"commandName": "help", "shouldDisplay": true}]}}
            """
        let pages = commandPages(try ToolDescription(json: Array(json.utf8)), date: try #require(Self.date))
        #expect(pages.map(\.fileName) == ["dtls.1", "dtls-status.1"])
        #expect(
            pages[0].text.contains(
                ".It Fl \\&s Ar \\&path , Fl \\&-socket Ar \\&path\nThe control socket.\nThe default is \\fB/run/x\\fR.\n"
            ))
        #expect(pages[0].text.contains(".Xr dtls-status 1 .\n") && !pages[0].text.contains("hidden"))
        #expect(pages[1].text.contains(".Nm \\&dtls\n.Cm \\&status\n.Ar \\&service ...\n"))
        #expect(pages[1].text.contains(".Nd \"show the state\"\n"))
    }

    @Test func `a date that is none is refused`() {
        for text in ["2026-13-01", "2026-11", "today", "2026-11-00"] { #expect(DocumentDate(text) == nil, "\(text)") }
        #expect(DocumentDate("2026-02-03")?.text == "February 3, 2026")
    }
}
