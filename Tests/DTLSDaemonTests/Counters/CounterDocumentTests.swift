import Foundation
import Testing

@testable import DTLSDaemon

/// docs/counters.md says what each counter means and what to do when it rises.
@Suite struct CounterDocumentTests {
    private let text: String

    init() throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
        text = try String(contentsOf: root.appendingPathComponent("docs/counters.md"), encoding: .utf8)
    }

    /// The first cells of the rows of all tables.
    private var cells: [Substring] {
        text.split(separator: "\n").filter { $0.hasPrefix("| ") }.compactMap { $0.split(separator: "|").first }
    }

    @Test func `every counter has a row`() {
        for family in CounterSnapshot.families {
            #expect(cells.contains { $0.contains("`\(family.name)`") }, "\(family.name)")
        }
    }

    @Test func `every value of a label has a row, but those of cipher suites, groups and alerts`() {
        let explained = CounterSnapshot.families.filter {
            !["cipher", "group", "alert", "to", "state"].contains($0.label)
        }
        for family in explained {
            for value in family.values where family.name != "reloads_total" {
                #expect(cells.contains { $0.contains("`\(value)`") }, "\(family.name) \(value)")
            }
        }
        for family in CounterSnapshot.families where ["to", "state"].contains(family.label) {
            for value in family.values { #expect(text.contains("`\(value)`"), "\(family.name) \(value)") }
        }
    }

    @Test func `no counter has a row that is not there`() {
        let names = Set(CounterSnapshot.families.map(\.name))
        for cell in cells {
            for part in cell.split(separator: "`") where part.hasSuffix("_total") || part.hasSuffix("_seconds") {
                #expect(names.contains(String(part)), "\(part)")
            }
        }
    }
}
