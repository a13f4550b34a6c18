import ArgumentParser
import ControlProtocol

struct CountersCommand: OperatingCommand {
    static let configuration = CommandConfiguration(
        commandName: "counters",
        abstract: "Show what dtlsd has counted.",
        discussion: "Counters that are 0 are left out, unless --all is given.")

    @Argument(help: ArgumentHelp("Only counters whose names contain one of these words.", valueName: "word"))
    var words: [String] = []
    @Flag(help: "Show those that are 0, too.")
    var all = false
    @Flag(help: "Say what each counter counts, in place of the numbers.")
    var describe = false
    @OptionGroup var output: OutputOptions
    @OptionGroup var control: ControlOptions

    func operate(_ console: Console) throws(ToolFailure) {
        let reply = try control.ask(.counters)
        if output.json { return try console.write(reply.json + "\n") }
        let report = CounterReport(try reply.decoded(), words: words, includesZero: all)
        let lines = describe ? report.descriptions(width: console.width) : report.lines(width: console.width)
        try console.print(lines)
        // There is a heading in any case.
        if lines.count == 1 { console.note("No counter of these names\(describe || all ? "" : " is above 0").") }
    }
}

/// What `dtls counters` prints.
struct CounterReport {
    private let result: CountersResult
    private let words: [String]
    private let includesZero: Bool

    /// - Parameter words: parts of names, of which one must be there; none for all counters.
    init(_ result: CountersResult, words: [String] = [], includesZero: Bool = false) {
        self.result = result
        self.words = words
        self.includesZero = includesZero
    }

    private func isWanted(_ name: String) -> Bool { words.isEmpty || words.contains(where: name.contains) }

    func lines(width: Int?) -> [StyledLine] {
        var lines = [StyledLine("Since \(result.sinceAt)", .dim)]
        func add(_ place: String, _ counters: CounterValues) {
            let table = table(counters)
            if table.isEmpty { return }
            lines += [.empty, StyledLine(place, .strong)] + table.lines(width: width).dropFirst()
        }
        for (name, counters) in result.services.sorted(by: { $0.key < $1.key }) { add("service \(name)", counters) }
        for (name, counters) in result.clients.sorted(by: { $0.key < $1.key }) { add("client \(name)", counters) }
        for listener in result.listeners { add("listener \(listener.address)", listener.counters) }
        for worker in result.workers { add("worker \(worker.number)", worker.counters) }
        add("main process", result.main)
        return lines
    }

    func descriptions(width: Int?) -> [StyledLine] {
        var table = TextTable([.text("NAME"), .text("KIND"), .text("LABEL"), .text("MEANING", isFlexible: true)])
        for (name, description) in result.descriptions.sorted(by: { $0.key < $1.key }) where isWanted(name) {
            table.add([
                .init(name, .strong), .init(description.kind.rawValue), .init(description.label ?? ""),
                .init(description.help),
            ])
        }
        return table.lines(width: width)
    }

    private func table(_ counters: CounterValues) -> TextTable {
        var table = TextTable([.text(""), .number("")])
        func add(_ name: String, _ number: UInt64) {
            if number > 0 || includesZero { table.add([.init("  \(name)"), .init(shown(number, name))]) }
        }
        for (name, value) in counters.sorted(by: { $0.key < $1.key }) where isWanted(name) {
            switch value {
            case .number(let number): add(name, number)
            case .measure(let measure):
                if measure != 0 || includesZero { table.add([.init("  \(name)"), .init("\(measure)")]) }
            case .labelled(let numbers):
                let label = result.descriptions[name]?.label ?? "label"
                for (key, number) in numbers.sorted(by: { $0.key < $1.key }) { add("\(name){\(label)=\(key)}", number) }
            case .histogram(let histogram):
                let count = histogram.counts.reduce(0, &+)
                guard count > 0 || includesZero else { continue }
                table.add([.init("  \(name)"), .init(Quantity.count(count))])
                for (title, share) in [("50%", 0.5), ("99%", 0.99)] {
                    guard let quantile = histogram.quantileText(share) else { continue }
                    table.add([.init("    \(title)"), .init(quantile)])
                }
            }
        }
        return table
    }

    private func shown(_ number: UInt64, _ name: String) -> String {
        result.descriptions[name]?.unit == "bytes" ? Quantity.bytes(number) : Quantity.count(number)
    }
}
