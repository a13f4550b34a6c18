import Primitives

/// Counters of one name: one, or one for each value of a label, or a histogram. What Prometheus calls a metric family.
struct CounterFamily: Equatable, Sendable {
    enum Kind: String, Sendable {
        /// It only grows, but for a restart of the daemon.
        case counter
        /// It is what there is now.
        case gauge
        /// How often something has taken how long, by ``SharedHistogram/bounds``.
        case histogram
    }

    /// As Prometheus would have it, without the prefix `dtlsd_`: a counter ends in `_total`, and a unit stands before
    /// that.
    let name: String
    let kind: Kind
    /// A sentence without its full stop.
    let help: String
    /// `"seconds"` or `"bytes"`, with which the name ends, too; `nil`: a number of things.
    let unit: String?
    /// The name of the label; `nil` where there is one counter.
    let label: String?
    /// The values of the label, in the order of the counters; empty where there is one counter.
    let values: [String]
    /// Whether its word has a bit for each member of a set, so that sets can be joined.
    var isSet = false

    static func counter(_ name: String, unit: String? = nil, _ help: String) -> CounterFamily {
        CounterFamily(name: name, kind: .counter, help: help, unit: unit, label: nil, values: [])
    }

    static func counter(_ name: String, by label: String, _ values: [String], _ help: String) -> CounterFamily {
        CounterFamily(name: name, kind: .counter, help: help, unit: nil, label: label, values: values)
    }

    static func gauge(_ name: String, unit: String? = nil, _ help: String) -> CounterFamily {
        CounterFamily(name: name, kind: .gauge, help: help, unit: unit, label: nil, values: [])
    }

    static func gauge(_ name: String, by label: String, _ values: [String], _ help: String) -> CounterFamily {
        CounterFamily(name: name, kind: .gauge, help: help, unit: nil, label: label, values: values)
    }

    /// A gauge of how many members a set has.
    static func members(_ name: String, _ help: String) -> CounterFamily {
        CounterFamily(name: name, kind: .gauge, help: help, unit: nil, label: nil, values: [], isSet: true)
    }

    static func histogram(_ name: String, _ help: String) -> CounterFamily {
        CounterFamily(name: name, kind: .histogram, help: help, unit: "seconds", label: nil, values: [])
    }

    /// The 64-bit words that its counters take.
    var wordCount: Int {
        switch kind {
        case .counter, .gauge: max(1, values.count)
        case .histogram: SharedHistogram.wordCount
        }
    }
}

/// The families of one kind of ``CounterBlock``, in the order in which they stand in its memory.
protocol CounterSchema: CaseIterable, Hashable, RawRepresentable<Int>, Sendable {
    var family: CounterFamily { get }
    static var layout: CounterLayout { get }
}

/// Where the families of a ``CounterSchema`` stand in a block.
struct CounterLayout: Sendable {
    let families: [CounterFamily]
    /// The word that each family begins with.
    let offsets: [Int]
    let wordCount: Int
    /// Tells layouts apart: two processes with different ones cannot share a block.
    let fingerprint: UInt64

    init(_ families: [CounterFamily]) {
        var offsets: [Int] = []
        var count = 0
        var description = ""
        for family in families {
            offsets.append(count)
            count += family.wordCount
            description += "\(family.name) \(family.kind) \(family.values.joined(separator: ","));"
        }
        self.families = families
        self.offsets = offsets
        wordCount = count
        fingerprint = FNV1a.hash(description.utf8)
    }
}

/// A view of the memory in which one process counts: a word for each counter. That process alone writes, and others may
/// read at any time. The memory must outlive the view.
struct CounterBlock<Schema: CounterSchema> {
    private let words: UnsafeMutableRawPointer

    /// - Parameter words: as many words as the layout of the schema has, 8-byte aligned.
    init(_ words: UnsafeMutableRawPointer) { self.words = words }

    private func word(_ counter: Schema, _ index: Int) -> UnsafeMutableRawPointer {
        words + 8 * (Schema.layout.offsets[counter.rawValue] + index)
    }

    /// Adds to a counter.
    /// - Parameter index: of the label's value, where the family has a label.
    func add(_ number: Int = 1, to counter: Schema, _ index: Int = 0) {
        SharedWord.add(UInt64(truncatingIfNeeded: number), to: word(counter, index))
    }

    /// Says whether something belongs to a set.
    /// - Parameter member: 0 to 63; others are not noted.
    func setMember(_ member: Int, of set: Schema, _ isMember: Bool) {
        guard (0..<64).contains(member) else { return }
        let former = SharedWord.loadRelaxed(word(set, 0))
        let bit = UInt64(1) << UInt64(member)
        SharedWord.storeRelaxed(isMember ? former | bit : former & ~bit, word(set, 0))
    }

    /// Sets a gauge; what is negative counts as 0.
    func set(_ gauge: Schema, to value: Int, _ index: Int = 0) {
        SharedWord.storeRelaxed(UInt64(max(0, value)), word(gauge, index))
    }

    func histogram(_ counter: Schema) -> SharedHistogram { SharedHistogram(word(counter, 0)) }

    /// The counters of all families.
    var values: CounterValues<Schema> {
        CounterValues((0..<Schema.layout.wordCount).map { SharedWord.loadRelaxed(words + 8 * $0) })
    }

    /// Adds the counters of one family to sums.
    func add(_ counter: Schema, to sums: inout CounterValues<Schema>) {
        for index in 0..<Schema.layout.families[counter.rawValue].wordCount {
            sums[counter, index] &+= SharedWord.loadRelaxed(word(counter, index))
        }
    }

    /// Sets all gauges to 0: those of a process that has died say nothing.
    func resetGauges() {
        for counter in Schema.allCases where counter.family.kind == .gauge {
            for index in 0..<Schema.layout.families[counter.rawValue].wordCount { set(counter, to: 0, index) }
        }
    }
}

/// The counters of a block at one moment, or the sums of several.
struct CounterValues<Schema: CounterSchema>: Equatable, Sendable {
    private var words: [UInt64]

    init() { words = [UInt64](repeating: 0, count: Schema.layout.wordCount) }

    /// - Parameter words: as many as the layout of the schema has.
    fileprivate init(_ words: [UInt64]) { self.words = words }

    subscript(counter: Schema, index: Int = 0) -> UInt64 {
        get { words[Schema.layout.offsets[counter.rawValue] + index] }
        set { words[Schema.layout.offsets[counter.rawValue] + index] = newValue }
    }

    /// The sum over all values of the label.
    func total(_ counter: Schema) -> UInt64 {
        (0..<Schema.layout.families[counter.rawValue].wordCount).reduce(0) { $0 &+ self[counter, $1] }
    }

    /// Adds each counter of others to the same one here, and joins sets.
    mutating func add(_ other: CounterValues) {
        for counter in Schema.allCases { add(counter, of: other) }
    }

    /// Does the same for one family.
    mutating func add(_ counter: Schema, of other: CounterValues) {
        let start = Schema.layout.offsets[counter.rawValue]
        let family = Schema.layout.families[counter.rawValue]
        for index in start..<(start + family.wordCount) {
            if family.isSet {
                words[index] |= other.words[index]
            } else {
                words[index] &+= other.words[index]
            }
        }
    }
}
