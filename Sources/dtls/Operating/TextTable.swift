/// A table for people.
struct TextTable {
    enum Alignment { case left, right }

    struct Column {
        var title: String
        /// The title where the terminal is narrow.
        var shortTitle: String
        var alignment: Alignment
        /// Whether it may be cut where the table does not fit the width of the terminal.
        var isFlexible: Bool

        /// Of text.
        static func text(_ title: String, isFlexible: Bool = false) -> Column {
            Column(title: title, shortTitle: title, alignment: .left, isFlexible: isFlexible)
        }

        /// Of numbers.
        static func number(_ title: String, short: String? = nil) -> Column {
            Column(title: title, shortTitle: short ?? title, alignment: .right, isFlexible: false)
        }
    }

    struct Cell: ExpressibleByStringLiteral {
        var text: String
        var style: Style

        init(_ text: String, _ style: Style = .plain) {
            self.text = TerminalText.printable(text)
            self.style = style
        }

        /// - Parameter text: `nil` where nothing is known.
        init(_ text: String?, _ style: Style = .plain) { self.init(text ?? "–", style) }

        init(stringLiteral text: String) { self.init(text) }
    }

    /// The columns of text that a flexible column keeps.
    private static let leastWidth = 8

    let columns: [Column]
    private(set) var rows: [[Cell]] = []

    init(_ columns: [Column]) { self.columns = columns }

    /// - Parameter cells: one for each column.
    mutating func add(_ cells: [Cell]) { rows.append(cells) }

    var isEmpty: Bool { rows.isEmpty }

    /// The heading and the rows. Where the terminal is narrow the titles get shorter first, then the gaps between columns,
    /// and then what is in flexible columns.
    /// - Parameter width: columns of the terminal; `nil` where nothing may be cut.
    func lines(width: Int?) -> [StyledLine] {
        let width = width ?? .max
        for titles in [columns.map(\.title), columns.map(\.shortTitle)] {
            let widths = naturalWidths(titles)
            if Self.sum(widths, gap: 2) <= width { return lines(titles, widths, gap: 2) }
        }
        let titles = columns.map(\.shortTitle)
        return lines(titles, shrunk(naturalWidths(titles), to: width), gap: 1).map { $0.cut(to: width) }
    }

    private func naturalWidths(_ titles: [String]) -> [Int] {
        columns.indices.map { index in
            rows.reduce(TerminalText.width(of: titles[index])) { max($0, TerminalText.width(of: $1[index].text)) }
        }
    }

    private static func sum(_ widths: [Int], gap: Int) -> Int { widths.reduce(0, +) + gap * (widths.count - 1) }

    /// Takes from the widest flexible column, again and again, until the table fits or none has anything left to give.
    private func shrunk(_ widths: [Int], to width: Int) -> [Int] {
        var widths = widths
        var excess = Self.sum(widths, gap: 1) - width
        while excess > 0 {
            let flexible = columns.indices.filter { columns[$0].isFlexible && widths[$0] > Self.leastWidth }
            guard let widest = flexible.max(by: { widths[$0] < widths[$1] }) else { break }
            widths[widest] -= 1
            excess -= 1
        }
        return widths
    }

    private func lines(_ titles: [String], _ widths: [Int], gap: Int) -> [StyledLine] {
        ([titles.map { Cell($0, .strong) }] + rows).map { line($0, widths, gap: gap) }
    }

    private func line(_ row: [Cell], _ widths: [Int], gap: Int) -> StyledLine {
        var line = StyledLine.empty
        /// Spaces that are written when something follows them.
        var pending = 0
        for (index, cell) in row.enumerated() {
            let cut = StyledLine(cell.text, cell.style).cut(to: widths[index])
            let padding = widths[index] - cut.width
            switch columns[index].alignment {
            case .left:
                if !cell.text.isEmpty {
                    line.append(String(repeating: " ", count: pending))
                    pending = 0
                }
                line = line + cut
                pending += padding + gap
            case .right:
                line.append(String(repeating: " ", count: pending + padding))
                line = line + cut
                pending = gap
            }
        }
        return line
    }
}
