#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// What a program that uses swift-argument-parser prints on `--experimental-dump-help`, as far as the pages need it.
struct ToolDescription: Decodable {
    struct Command: Decodable {
        var commandName: String
        var abstract: String?
        var discussion: String?
        var shouldDisplay: Bool
        var arguments: [Argument]?
        var subcommands: [Command]?
    }

    struct Argument: Decodable {
        enum Kind: String, Decodable { case positional, option, flag }
        struct Name: Decodable {
            enum Kind: String, Decodable { case long, short, longWithSingleDash }
            var kind: Kind
            var name: String
        }
        var kind: Kind
        var shouldDisplay: Bool
        var sectionTitle: String?
        var isOptional: Bool
        var isRepeating: Bool
        var names: [Name]?
        var preferredName: Name?
        var valueName: String?
        var defaultValue: String?
        var allValueStrings: [String]?
        var allValues: [String]?
        var abstract: String?
        var discussion: String?
    }

    var command: Command

    init(json: [UInt8]) throws { self = try JSONDecoder().decode(Self.self, from: Data(json)) }
}

/// The page of a program and those of its subcommands: dtls(1), dtls-status(1) and so on. A program whose name ends with
/// "d" is a daemon, and its page is in section 8.
func commandPages(_ tool: ToolDescription, date: DocumentDate) -> [MdocPage] {
    CommandPages(section: tool.command.commandName.hasSuffix("d") ? 8 : 1, date: date).pages(
        of: tool.command, above: [])
}

private struct CommandPages {
    let section: Int
    let date: DocumentDate

    func pages(of command: ToolDescription.Command, above: [String]) -> [MdocPage] {
        let path = above + [command.commandName]
        // swift-argument-parser adds "help" by itself.
        let subcommands = (command.subcommands ?? []).filter { $0.shouldDisplay && $0.commandName != "help" }
        let arguments = (command.arguments ?? []).filter(\.shouldDisplay)
        var page = MdocPage(
            name: path.joined(separator: "-"), section: section, summary: Self.summary(command.abstract ?? ""),
            date: date)
        page.macro("Sh", "SYNOPSIS")
        page.request("Nm " + MdocPage.argument(path[0]))
        for word in path.dropFirst() { page.request("Cm " + MdocPage.argument(word)) }
        for argument in arguments { page.request(Self.synopsis(argument)) }
        if !subcommands.isEmpty {
            page.request("Ar command")
            page.request("Op Ar argument ...")
        }
        page.macro("Sh", "DESCRIPTION")
        page.prose([command.abstract ?? ""])
        if let discussion = command.discussion {
            page.request("Pp")
            page.prose(Self.lines(discussion))
        }
        addOptions(arguments, to: &page)
        if !subcommands.isEmpty {
            page.macro("Sh", "COMMANDS")
            page.request("Bl -tag -width Ds")
            for subcommand in subcommands {
                page.request("It Cm " + MdocPage.argument(subcommand.commandName))
                page.prose([subcommand.abstract ?? ""])
                page.prose(["See"])
                page.request("Xr \((path + [subcommand.commandName]).joined(separator: "-")) \(section) .")
            }
            page.request("El")
        }
        addFiles(path, to: &page)
        addRelatedPages(path, to: &page)
        return [page] + subcommands.flatMap { pages(of: $0, above: path) }
    }

    /// The first sentence without its period, beginning with a small letter unless the word is an acronym.
    private static func summary(_ abstract: String) -> String {
        var text = abstract.hasSuffix(".") ? String(abstract.dropLast()) : abstract
        if let first = text.first, first.isUppercase, text.dropFirst().first?.isUppercase == false {
            text = first.lowercased() + text.dropFirst()
        }
        return text.isEmpty ? "a command of dtlsd" : text
    }

    private static func lines(_ text: String) -> [String] {
        text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    }

    private static func name(_ name: ToolDescription.Argument.Name) -> String {
        "Fl " + MdocPage.argument(name.kind == .long ? "-" + name.name : name.name)
    }

    private static func synopsis(_ argument: ToolDescription.Argument) -> String {
        let value = "Ar " + MdocPage.argument(argument.valueName ?? "value") + (argument.isRepeating ? " ..." : "")
        var words: String
        switch argument.kind {
        case .positional: words = value
        case .option: words = (argument.preferredName.map(name) ?? "") + " " + value
        case .flag: words = argument.preferredName.map(name) ?? ""
        }
        if argument.isOptional || argument.defaultValue != nil { words = "Op " + words }
        return words
    }

    private func addOptions(_ arguments: [ToolDescription.Argument], to page: inout MdocPage) {
        var title: String?
        var isOpen = false
        for argument in arguments {
            if !isOpen || argument.sectionTitle != title {
                if isOpen { page.request("El") }
                if let section = argument.sectionTitle { page.macro("Ss", section) }
                page.request("Bl -tag -width Ds")
                title = argument.sectionTitle
                isOpen = true
            }
            let value = "Ar " + MdocPage.argument(argument.valueName ?? "value")
            let names = (argument.names ?? []).map { name in
                argument.kind == .option ? Self.name(name) + " " + value : Self.name(name)
            }
            page.request("It " + (names.isEmpty ? value : names.joined(separator: " , ")))
            page.prose([argument.abstract ?? ""])
            if let discussion = argument.discussion {
                page.request("Pp")
                page.prose(Self.lines(discussion))
            }
            if let values = argument.allValueStrings ?? argument.allValues, !values.isEmpty {
                page.prose(["The values are \(values.map { "`\($0)`" }.joined(separator: ", "))."])
            }
            if let text = argument.defaultValue, argument.kind != .flag { page.prose(["The default is `\(text)`."]) }
        }
        if isOpen { page.request("El") }
    }

    private func addFiles(_ path: [String], to page: inout MdocPage) {
        let files =
            switch path {
            case ["dtlsd"]:
                [
                    ("/etc/dtlsd/dtlsd.toml", "The configuration."),
                    ("/run/dtlsd/control.sock", "The socket by which `dtls` asks the daemon."),
                    ("/usr/share/doc/dtlsd", "Guides for operators, and ready-made configurations."),
                ]
            default: [(String, String)]()
            }
        guard !files.isEmpty else { return }
        page.macro("Sh", "FILES")
        page.request("Bl -tag -width Ds -compact")
        for (file, text) in files {
            page.request("It Pa " + MdocPage.argument(file))
            page.prose([text])
        }
        page.request("El")
    }

    private func addRelatedPages(_ path: [String], to page: inout MdocPage) {
        var related = [("dtls", 1), ("dtlsd.toml", 5), ("dtlsd", 8)].filter {
            $0 != (path.joined(separator: "-"), section)
        }
        if path.count > 2 { related.insert((path.dropLast().joined(separator: "-"), section), at: 1) }
        page.macro("Sh", "SEE ALSO")
        for (index, entry) in related.enumerated() {
            page.request("Xr \(entry.0) \(entry.1)" + (index == related.count - 1 ? "" : " ,"))
        }
    }
}
