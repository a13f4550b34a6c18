import ArgumentParser
import Glibc

/// The program that makes the man pages when a package is built. It is not installed.
@main struct ManualPages: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dtlsd-manual", abstract: "Makes the man pages of dtlsd, in mdoc(7).",
        subcommands: [OfConfiguration.self, OfCommand.self])

    struct Output: ParsableArguments {
        @Option(help: "The date of the pages: YYYY-MM-DD.")
        var date: String

        @Option(help: "The folder that the pages are written to.")
        var output: String

        func write(_ page: MdocPage) throws {
            let path = "\(output)/\(page.fileName)"
            guard let file = fopen(path, "w") else { throw ManualError("\(path) cannot be written (errno \(errno))") }
            let isWritten = fputs(page.text, file) >= 0
            guard fclose(file) == 0, isWritten else { throw ManualError("\(path) cannot be written") }
        }

        func documentDate() throws -> DocumentDate {
            guard let date = DocumentDate(date) else { throw ManualError("expected YYYY-MM-DD, not \"\(date)\"") }
            return date
        }
    }

    struct OfConfiguration: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "configuration",
            abstract: "Makes dtlsd.toml(5) of the configuration's schema and of config/dtlsd.toml.")

        @Argument(help: "config/dtlsd.toml, which explains the keys.") var reference: String
        @OptionGroup var output: Output

        func run() throws {
            let reference = ReferenceFile(String(decoding: try contents(of: reference), as: UTF8.self))
            try output.write(configurationPage(reference, date: output.documentDate()))
        }
    }

    struct OfCommand: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "command",
            abstract: "Makes the pages of a program and of its subcommands of what --experimental-dump-help prints.")

        @Argument(help: "The file with the description, in JSON.") var description: String
        @OptionGroup var output: Output

        func run() throws {
            let tool = try ToolDescription(json: contents(of: description))
            for page in try commandPages(tool, date: output.documentDate()) { try output.write(page) }
        }
    }
}

private func contents(of path: String) throws -> [UInt8] {
    guard let file = fopen(path, "r") else { throw ManualError("\(path) cannot be read (errno \(errno))") }
    defer { fclose(file) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
        let count = fread(&buffer, 1, buffer.count, file)
        if count == 0 { break }
        bytes += buffer[..<count]
    }
    guard ferror(file) == 0 else { throw ManualError("\(path) cannot be read") }
    return bytes
}

struct ManualError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}
