import ArgumentParser
import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// `dtls psk`: the file of pre-shared keys of a service of dtlsd.
struct PSKCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "psk",
        abstract: "Add, list and remove identities in a file of pre-shared keys.",
        discussion: """
            The file is the one that a [service.NAME.psk] table of dtlsd.toml names, which is psktool's and stunnel's, too: \
            a line IDENTITY:KEY for each. It is replaced as a whole, and dtlsd reads it with its next reload. Who may not \
            read it now may not read it then: a new file has mode 0600, and others than owner and group never get in.
            """,
        subcommands: [AddPSKCommand.self, ListPSKCommand.self, RemovePSKCommand.self]
    )
}

struct AddPSKCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add", abstract: "Add identities with random keys, and print their lines.",
        discussion: "The printed lines have the keys in them: they are for the devices that get the identities.")

    @Argument(help: ArgumentHelp("The file; it is made where there is none.", valueName: "file"))
    var file: String

    @Argument(help: ArgumentHelp("The identities, as text or as # and hexadecimal digits.", valueName: "identity"))
    var identities: [String]

    @Option(help: ArgumentHelp("Bytes of each key, 16 to 512.", valueName: "bytes"))
    var bytes = 16

    @Flag(help: "Give identities that are there another key.")
    var replace = false

    func validate() throws {
        let range = PresharedKeyFile.minimumKeyLength...PresharedKeys.maximumKeyLength
        guard range.contains(bytes) else {
            throw ValidationError("--bytes must be \(range.lowerBound) to \(range.upperBound).")
        }
        if identities.isEmpty { throw ValidationError("Name one identity at least.") }
    }

    func run() throws {
        do throws(TalkingFailure) {
            var added: [[UInt8]] = []
            try PresharedKeyEditor.edit(file, mayCreate: true) { (editor) throws(TalkingFailure) in
                for text in identities {
                    let identity = try PresharedKeyEditor.identity(text)
                    guard replace || !editor.contains(identity) else {
                        throw .local(
                            "\(file) has the identity \(Printable.quoted(text)) already; --replace gives it another key"
                        )
                    }
                    // Of getrandom(2), as all of Swift's.
                    var random = SystemRandomNumberGenerator()
                    let key = (0..<bytes).map { _ in UInt8.random(in: .min ... .max, using: &random) }
                    editor.set(identity, key)
                    added.append(PresharedKeyEditor.line(identity, key))
                }
            }
            for line in added { Standard.output(line + [UInt8(ascii: "\n")]) }
        } catch {
            throw error.report("psk add")
        }
    }
}

struct ListPSKCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List the identities, without their keys.",
        discussion: "Lines that dtlsd would refuse are said on standard error, and the exit status is 1 then.")

    @Argument(help: ArgumentHelp("The file.", valueName: "file"))
    var file: String

    func run() throws {
        let parsed: (keys: [PresharedKey], problems: [PresharedKeyFile.Problem])
        do throws(SystemError) {
            parsed = PresharedKeyFile.parse(try TextFile.read(file, limit: PresharedKeyEditor.maximumSize))
        } catch {
            throw TalkingFailure.local("\(error)").report("psk list")
        }
        for key in parsed.keys {
            let identity = TerminalText.printable(PresharedKeys.text(of: key.identity))
            Standard.output("\(identity)  \(key.key.count * 8) bits\n")
        }
        for problem in parsed.problems { Standard.error("\(file), line \(problem.line): \(problem.message)\n") }
        if !parsed.problems.isEmpty { throw ExitCode(1) }
    }
}

struct RemovePSKCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove", abstract: "Remove identities and their keys.")

    @Argument(help: ArgumentHelp("The file.", valueName: "file"))
    var file: String

    @Argument(help: ArgumentHelp("The identities, as text or as # and hexadecimal digits.", valueName: "identity"))
    var identities: [String]

    func run() throws {
        do throws(TalkingFailure) {
            try PresharedKeyEditor.edit(file, mayCreate: false) { (editor) throws(TalkingFailure) in
                for text in identities where !editor.remove(try PresharedKeyEditor.identity(text)) {
                    throw .local("\(file) has no identity \(Printable.quoted(text)); nothing was removed")
                }
            }
        } catch {
            throw error.report("psk remove")
        }
    }
}
