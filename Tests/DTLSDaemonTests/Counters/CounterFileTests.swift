import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

@Suite struct CounterFileTests {
    private let web = SlotTarget.service("web")
    private let out = SlotTarget.client("out")

    private func copy(of file: CounterFile) throws -> FileDescriptor { try file.descriptor.duplicate() }

    @Test func `what one process counts is read by another`() throws {
        let reader = try CounterFile(name: "counters")
        let writer = try CounterFile(try copy(of: reader))
        let counters = writer.counters(of: web)
        counters.count(Refusal.full)
        counters.countDropped(.forged, 3)
        counters.traffic.add(1, .datagramsReceived)
        counters.traffic.add(1_200, .datagramBytesReceived)
        counters.traffic.add(2, .tooLarge)
        writer.counters(of: out).count(HandshakeResult.timedOut)
        writer.process.set(.openDescriptors, to: 17)
        let values = try #require(reader.targets[web])
        #expect(values[.refusals, Refusal.full.rawValue] == 1 && values.total(.refusals) == 1)
        #expect(values[.datagramsDropped, DropReason.forged.rawValue] == 3)
        #expect(values[.datagramsDropped, DropReason.tooLarge.rawValue] == 2)
        #expect(values[.datagramsReceived] == 1 && values[.datagramBytesReceived] == 1_200)
        #expect(reader.targets[out]?[.handshakes, HandshakeResult.timedOut.rawValue] == 1)
        #expect(reader.process.values[.openDescriptors] == 17)
        #expect(reader.targets.count == 2)
    }

    @Test func `a process goes on with the counts of the one before it, but not with what that one had`() throws {
        let file = try CounterFile(name: "counters")
        do {
            let first = try CounterFile(try copy(of: file))
            first.counters(of: web).countDropped(.unsent, 5)
            first.counters(of: web).block.setMember(3, of: .backendsOut, true)
            first.process.set(.residentMemory, to: 1_000)
            first.process.histogram(.loopTurnSeconds).observe(nanoseconds: 5)
        }
        let second = try CounterFile(try copy(of: file))
        second.resetGauges()
        second.counters(of: web).countDropped(.unsent, 2)
        let values = try #require(file.targets[web])
        #expect(values[.datagramsDropped, DropReason.unsent.rawValue] == 7)
        #expect(values[.backendsOut] == 0 && file.process.values[.residentMemory] == 0)
        #expect(file.process.values[.loopTurnSeconds] == 1)
    }

    @Test func `a service finds its block again, also among many`() throws {
        let file = try CounterFile(name: "counters")
        for number in 0..<200 { file.counters(of: SlotTarget.service("s\(number)")).count(Refusal.busy) }
        for number in 0..<200 { file.counters(of: SlotTarget.service("s\(number)")).count(Refusal.busy) }
        #expect(file.targets.count == 200)
        #expect(file.targets.values.allSatisfy { $0.total(.refusals) == 2 })
        #expect(file.totals([.refusals]).total(.refusals) == 400)
    }

    @Test func `services above the number of blocks count in none of the others'`() throws {
        let file = try CounterFile(name: "counters")
        for number in 0..<CounterFile.targetCapacity {
            file.counters(of: SlotTarget.service("s\(number)")).count(Refusal.busy)
        }
        let before = file.targets
        file.counters(of: SlotTarget.service("one more")).count(Refusal.busy)
        file.counters(of: SlotTarget.service("and another")).count(Refusal.busy)
        #expect(file.targets == before)
    }

    // MARK: Files that cannot be used

    private func description(_ work: () throws -> Void) -> String {
        do {
            try work()
            return "it was taken"
        } catch {
            return "\(error)"
        }
    }

    @Test func `a file of another version is refused with a sentence`() throws {
        let file = try CounterFile(name: "counters")
        let memory = try SharedMemory(try copy(of: file))
        memory.bytes.storeBytes(of: 9, toByteOffset: 8, as: UInt32.self)
        #expect(
            description { _ = try CounterFile(try copy(of: file)) }
                == "it was written by another version of dtlsd, with layout 9 where this one knows 1")
        memory.bytes.storeBytes(of: CounterFile.layoutVersion, toByteOffset: 8, as: UInt32.self)
        memory.bytes.storeBytes(of: 1, toByteOffset: 16, as: UInt64.self)
        #expect(
            description { _ = try CounterFile(try copy(of: file)) }
                == "it was written by another version of dtlsd, which has other counters")
    }

    @Test(arguments: [0, 1, 63, 64, 4_096])
    func `a file that was cut short is refused with a sentence`(_ size: Int) throws {
        let file = try CounterFile(name: "counters")
        let whole = try MemoryFile.read(file.descriptor)
        let short = try MemoryFile.makeOpen(name: "short")
        try MemoryFile.replace(short, with: [UInt8](whole.prefix(size)))
        let text = description { _ = try CounterFile(try short.duplicate()) }
        switch size {
        case 0: #expect(text == "mmap memfd: Invalid argument")
        case 1, 63: #expect(text == "it does not hold counters of dtlsd")
        default:
            #expect(
                text
                    == "it has \(size) bytes where \(whole.count) are expected: it was cut short, or more was written to it"
            )
        }
    }

    @Test func `a file of another kind is refused`() throws {
        let slots = try SlotFile(capacity: 16, name: "slots")
        #expect(
            description { _ = try CounterFile(try slots.descriptor.duplicate()) }
                == "it does not hold counters of dtlsd")
    }

    @Test func `a number of blocks that is out of all bounds reads no memory of others`() throws {
        let file = try CounterFile(name: "counters")
        let memory = try SharedMemory(try copy(of: file))
        memory.bytes.storeBytes(of: .max, toByteOffset: 24, as: UInt64.self)
        #expect(file.targets.count == 1, "all blocks have the target 0")
        _ = file.counters(of: web)
    }
}

@Suite struct CounterFamilyTests {
    @Test func `the counters of connections are the first ones of a service's block`() {
        let offsets = TargetCounter.layout.offsets
        let places: [(TrafficCounter, TargetCounter, Int)] = [
            (.datagramsReceived, .datagramsReceived, 0), (.datagramBytesReceived, .datagramBytesReceived, 0),
            (.datagramsSent, .datagramsSent, 0), (.datagramBytesSent, .datagramBytesSent, 0),
            (.messagesReceived, .messagesReceived, 0), (.messageBytesReceived, .messageBytesReceived, 0),
            (.messagesSent, .messagesSent, 0), (.messageBytesSent, .messageBytesSent, 0),
            (.flightsRetransmitted, .flightsRetransmitted, 0),
            (.unsent, .datagramsDropped, DropReason.unsent.rawValue),
            (.tooLarge, .datagramsDropped, DropReason.tooLarge.rawValue),
        ]
        #expect(places.map(\.0) == TrafficCounter.allCases)
        for (counter, family, index) in places { #expect(offsets[family.rawValue] + index == counter.rawValue) }
    }

    @Test func `names, units and labels are as Prometheus has them`() {
        let families = CounterSnapshot.families
        #expect(Set(families.map(\.name)).count == families.count)
        for family in families {
            #expect(family.name.allSatisfy { $0.isASCII && ($0.isLowercase || $0 == "_") }, "\(family.name)")
            #expect(family.name.hasSuffix("_total") == (family.kind == .counter), "\(family.name)")
            let bare = family.kind == .counter ? String(family.name.dropLast(6)) : family.name
            if let unit = family.unit { #expect(bare.hasSuffix("_\(unit)"), "\(family.name)") }
            #expect(!family.help.isEmpty && !family.help.hasSuffix("."), "\(family.name)")
            #expect((family.label == nil) == family.values.isEmpty, "\(family.name)")
            #expect(Set(family.values).count == family.values.count, "\(family.name)")
            #expect(family.values.count < 64, "labels are bounded")
        }
    }

    @Test func `what peers choose has a bounded number of labels`() {
        #expect(HandshakeLabels.ciphers[HandshakeLabels.cipher("ECDHE-ECDSA-AES128-GCM-SHA256")].hasPrefix("ECDHE"))
        #expect(HandshakeLabels.ciphers[HandshakeLabels.cipher("KRYPTO-9000")] == "other")
        #expect(HandshakeLabels.groups[HandshakeLabels.group("X25519")] == "x25519")
        #expect(HandshakeLabels.groups[HandshakeLabels.group(nil)] == "none")
        #expect(HandshakeLabels.groups[HandshakeLabels.group("brainpoolP256r1")] == "other")
        #expect(HandshakeLabels.alerts[HandshakeLabels.alert(48)] == "unknown_ca")
        #expect(HandshakeLabels.alerts[HandshakeLabels.alert(255)] == "other")
        #expect((0...255).allSatisfy { HandshakeLabels.alerts.indices.contains(HandshakeLabels.alert(UInt8($0))) })
    }

    @Test func `limits on traffic and the reasons for drops have the same names`() {
        for excess in TrafficExcess.allCases { #expect(DropReason(excess).label == excess.key) }
    }

    @Test func `each end of a handshake and of a connection has its counter`() {
        let error = EngineError.alert(40)
        #expect(HandshakeResult(.handshakeTimedOut) == .timedOut)
        #expect(HandshakeResult(.replaced) == .abandoned)
        #expect(HandshakeResult(.closedHere) == .closedHere)
        #expect(HandshakeResult(.failed(.cancelled)) == .cancelled)
        #expect(HandshakeResult(.failed(.unknownServerName("a"))) == .unknownServerName)
        #expect(HandshakeResult(.failed(error)) == .failed)
        #expect(CloseReason(.closedByPeer) == .peer && CloseReason(.closedHere) == .here)
        #expect(CloseReason(.idle) == .idle && CloseReason(.replaced) == .replaced)
        #expect(CloseReason(.addressTaken) == .addressTaken && CloseReason(.failed(error)) == .failed)
    }
}

@Suite struct SharedHistogramTests {
    private let block: CounterBlock<ProcessCounter>
    private let file: CounterFile

    init() throws {
        file = try CounterFile(name: "counters")
        block = file.process
    }

    private var counts: [UInt64] {
        guard case .histogram(let histogram)? = block.values.named()["loop_turn_duration_seconds"] else { return [] }
        return histogram.counts
    }

    @Test func `each duration counts in the first bucket whose bound it does not exceed`() {
        let bounds = SharedHistogram.bounds
        #expect(bounds == bounds.sorted() && bounds.count + 2 == SharedHistogram.wordCount)
        let histogram = block.histogram(.loopTurnSeconds)
        for bound in bounds { histogram.observe(nanoseconds: bound) }
        #expect(counts == [UInt64](repeating: 1, count: bounds.count) + [0])
        for bound in bounds { histogram.observe(nanoseconds: bound + 1) }
        #expect(counts == [1] + [UInt64](repeating: 2, count: bounds.count - 1) + [1])
        histogram.observe(nanoseconds: 0)
        histogram.observe(nanoseconds: .max / 4)
        #expect(counts == [2] + [UInt64](repeating: 2, count: bounds.count))
    }

    @Test func `the sum is that of all durations, in seconds`() throws {
        let histogram = block.histogram(.loopTurnSeconds)
        for seconds in [UInt64(1), 2, 90] { histogram.observe(nanoseconds: seconds * 1_000_000_000) }
        guard case .histogram(let values)? = block.values.named()["loop_turn_duration_seconds"] else {
            Issue.record("no histogram")
            return
        }
        #expect(values.sumSeconds == 93)
        #expect(values.counts.reduce(0, +) == 3 && values.counts.last == 1)
        #expect(values.counts.count == CounterSnapshot.Histogram.boundsSeconds.count + 1)
        #expect(CounterSnapshot.Histogram.boundsSeconds.first == 0.0001)
    }
}
