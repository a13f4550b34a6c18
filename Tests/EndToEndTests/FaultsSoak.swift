import Foundation
import LinuxSystem
import Synchronization
import TestSupport

/// Half of the load that the machine bears, of clients that come, work and go while things break: one part echoes, the
/// other does handshakes of all kinds; beside them is what a hostile sender sends.
final class SoakLoad: Sendable {
    /// A run of `dtls bench`.
    struct Work: Sendable {
        var name: String
        var arguments: [String]
    }

    struct Latency: Codable {
        var perSecond: Double
        var median: Double
        var p99: Double
        var worst: Double
    }

    /// How a run has ended.
    struct Outcome: Sendable {
        var work: String
        var latency: Latency?
        /// Why something of it has failed; `nil` where nothing has.
        var obstacle: String?
    }

    private struct State {
        var tasks: [Task<Void, Never>] = []
        var outcomes: [Outcome] = []
        var vanished = 0
    }

    private let prefix: [String]
    private let folder: TestFolder
    private let isOver = Atomic<Bool>(false)
    private let state = Mutex(State())

    init(prefix: [String], in folder: TestFolder) { (self.prefix, self.folder) = (prefix, folder) }

    /// Runs it once.
    func run(_ work: Work) async -> Outcome {
        do {
            let program = try Program(
                prefix + ["bench"] + work.arguments + ["--insecure", "--quiet", "--json"], in: folder)
            let ending = try await program.ended(within: 180)
            let latency = Self.latency(program.output)
            let obstacle = latency == nil || ending != .exited(0) ? "\(ending): \(program.errors.suffix(300))" : nil
            return Outcome(work: work.name, latency: latency, obstacle: obstacle)
        } catch {
            return Outcome(work: work.name, obstacle: "\(error)")
        }
    }

    private static func latency(_ output: String) -> Latency? {
        guard let object = try? JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any],
            let latency = object["latency"] as? [String: Any]
        else { return nil }
        func number(_ value: Any?) -> Double? { (value as? NSNumber)?.doubleValue }
        guard let perSecond = number(object["per_second"]), let median = number(latency["p50_seconds"]),
            let p99 = number(latency["p99_seconds"]), let worst = number(latency["max_seconds"])
        else { return nil }
        return Latency(perSecond: perSecond, median: median, p99: p99, worst: worst)
    }

    /// Runs these in turn until ``stop()``, and rests after each for so many times as long as it has taken.
    func begin(_ works: [Work], rest: Double) {
        let task = Task {
            var number = 0
            while !isOver.load(ordering: .relaxed) {
                let start = ContinuousClock.now
                let outcome = await run(works[number % works.count])
                state.withLock { $0.outcomes.append(outcome) }
                number += 1
                try? await Task.sleep(for: (ContinuousClock.now - start) * rest)
            }
        }
        state.withLock { $0.tasks.append(task) }
    }

    /// Sends garbage to a place, some hundred datagrams a second.
    func begin(_ garbage: Garbage, to place: SocketAddress) {
        let task = Task {
            var garbage = garbage
            while !isOver.load(ordering: .relaxed) {
                garbage.send(50, to: place)
                try? await Task.sleep(for: .milliseconds(100))
            }
        }
        state.withLock { $0.tasks.append(task) }
    }

    /// Has clients come, `count` by each run of a command that stays, and go without a word.
    func beginVanishing(_ command: [String], count: Int) {
        repeatedly(resting: .seconds(2)) {
            let program = try Program(command, in: $0.folder)
            try await Task.sleep(for: .milliseconds(1_500))
            $0.state.withLock { $0.vanished += count }
            program.signal(SIGKILL)
            _ = try await program.ended()
        }
    }

    /// Has a client that echoes lines come back from its port each time, without a word and without what it knew.
    func beginReturning(_ command: [String]) {
        repeatedly(resting: .milliseconds(500)) {
            let program = try Program(command, in: $0.folder)
            program.send("here again\n")
            var obstacle: String?
            do {
                try await eventually("an answer", within: 5) { program.output.contains("here again\n") }
            } catch {
                obstacle = "\(error): \(program.errors.suffix(300))"
            }
            program.signal(SIGKILL)
            _ = try await program.ended()
            let outcome = Outcome(work: "same port", obstacle: obstacle)
            $0.state.withLock { $0.outcomes.append(outcome) }
        }
    }

    /// What cannot be done once is done again, too.
    private func repeatedly(
        resting pause: Duration, _ action: @escaping @Sendable (SoakLoad) async throws -> Void
    ) {
        let task = Task {
            while !isOver.load(ordering: .relaxed) {
                try? await action(self)
                try? await Task.sleep(for: pause)
            }
        }
        state.withLock { $0.tasks.append(task) }
    }

    /// How many clients have gone without a word so far.
    var vanished: Int { state.withLock { $0.vanished } }

    /// Returns when all runs that had begun have ended, with how they have.
    func stop() async -> [Outcome] {
        isOver.store(true, ordering: .relaxed)
        for task in state.withLock({ $0.tasks }) { await task.value }
        return state.withLock { $0.outcomes }
    }
}

/// An hour of faults under load: half of what the machine bears, clients of all kinds. After each fault it takes the
/// memory and the descriptors of each process, and measures latency while nothing is broken. What it has found is a page.
final class Soak {
    /// After one fault.
    struct Sample: Codable {
        var seconds: Double
        var fault: String
        /// The longest time that a client has waited for an answer, in seconds.
        var wait: Double
        /// Kilobytes of each process that no other shares, and its descriptors.
        var memory: [String: Int]
        var descriptors: [String: Int]
        /// By what was measured.
        var latency: [String: SoakLoad.Latency]
        /// How much of the machine's processors others have used meanwhile: 0 to 1.
        var others: Double
        /// Runs of the load beside the fault, those of which something failed, and why the first of these did.
        var runs: Int
        var failed: Int
        var obstacle: String?
    }

    private let world: FaultWorld
    private let folder: URL
    private let seed: UInt64
    private let start = ContinuousClock.now
    private let length: Int
    private let echoesPerSecond: Double
    private let handshakesPerSecond: Double
    private var load: SoakLoad?
    private var samples: [Sample] = []
    /// For how long the load works before a fault and after it.
    private static let margin = Duration.seconds(4)
    private static let echoConnections = 50
    private static let vanishingConnections = 10

    /// Measures what the machine can do.
    init(in world: FaultWorld, folder: String, seed: UInt64, seconds: Int) async throws {
        (self.world, self.folder, self.seed, length) = (world, URL(filePath: folder), seed, seconds)
        try FileManager.default.createDirectory(at: self.folder, withIntermediateDirectories: true)
        let echo = world.address(FaultWorld.ports.echo)
        echoesPerSecond = try await Self.best(
            of: .init(name: "echo", arguments: ["echo", "--window", "8", "--seconds", "3", echo]), in: world)
        handshakesPerSecond = try await Self.best(
            of: .init(name: "handshakes", arguments: ["handshake", "--count", "500", "--connections", "16", echo]),
            in: world)
    }

    /// The most of three times, since other programs may have some of the machine.
    private static func best(of work: SoakLoad.Work, in world: FaultWorld) async throws -> Double {
        var best = 0.0
        for _ in 0..<3 { best = max(best, try await measure(work, in: world).perSecond) }
        return best
    }

    private static func newLoad(in world: FaultWorld) -> SoakLoad {
        SoakLoad(prefix: world.network.clientPrefix + [Daemon.tool], in: world.folder)
    }

    private static func measure(_ work: SoakLoad.Work, in world: FaultWorld) async throws -> SoakLoad.Latency {
        let outcome = await newLoad(in: world).run(work)
        guard let latency = outcome.latency, outcome.obstacle == nil else {
            throw NeverHappened(
                description: "\(work.name) fail while nothing is broken: \(outcome.obstacle ?? "")\(world.lastLines)")
        }
        return latency
    }

    private func echo(perSecond: Double, seconds: Int, _ more: [String] = []) -> [String] {
        [
            "echo", "--connections", "\(Self.echoConnections)", "--seconds", "\(seconds)", "--rate",
            "\(max(1, Int(perSecond)))",
        ] + more + [world.address(FaultWorld.ports.echo)]
    }

    /// Handshakes of each kind: as many as can be done in `seconds` if they are full ones.
    private func handshakes(seconds: Double, connections: Int) -> [SoakLoad.Work] {
        let ports = FaultWorld.ports
        let kinds: [(name: String, arguments: [String], port: Int)] = [
            ("full handshake", [], ports.echo),
            ("resumed", ["--resume"], ports.echo),
            ("pre-shared key", ["--psk", "fault:\(FaultWorld.key)"], ports.keys),
            (
                "client certificate",
                ["--cert", world.person.certificate, "--key", world.person.privateKey], ports.strict
            ),
            ("connection ID", ["--connection-id", "4"], ports.echo),
        ]
        let count = max(20, Int(handshakesPerSecond * seconds))
        return kinds.map { kind in
            .init(
                name: kind.name,
                arguments: ["handshake", "--count", "\(count)", "--connections", "\(connections)"] + kind.arguments
                    + [world.address(kind.port)])
        }
    }

    /// Lets the load begin.
    func begin() async throws {
        let load = Self.newLoad(in: world)
        // A quarter of what the machine can do, and another one.
        load.begin(
            [
                .init(name: "echo", arguments: echo(perSecond: echoesPerSecond / 4, seconds: 4)),
                .init(
                    name: "echo with connection IDs",
                    arguments: echo(perSecond: echoesPerSecond / 4, seconds: 4, ["--connection-id", "4"])),
            ], rest: 0)
        load.begin(handshakes(seconds: 0.5, connections: 16).shuffled(using: &world.random), rest: 3)
        if let place = SocketAddress(host: FaultNetwork.server, port: UInt16(FaultWorld.ports.echo)) {
            load.begin(try Garbage(seed: world.random.next(), from: world.network), to: place)
        }
        load.beginVanishing(
            world.network.clientPrefix + [
                Daemon.tool, "bench", "idle", "--connections", "\(Self.vanishingConnections)", "--seconds", "60",
                "--insecure", "--quiet", world.address(FaultWorld.ports.echo),
            ], count: Self.vanishingConnections)
        load.beginReturning(world.openSSL(FaultWorld.ports.echo, ["-bind", "10.77.0.2:19999"]))
        self.load = load
        try await Task.sleep(for: Self.margin)
    }

    /// Lets the load end, some seconds after the fault.
    func pause() async throws -> [SoakLoad.Outcome] {
        try await Task.sleep(for: Self.margin)
        let outcomes = await load?.stop() ?? []
        // The last words of others may not have come through; the fault has hardly met more than two runs, of 50 connections
        // each.
        world.noteVanished(2 * Self.echoConnections + 5 + (load?.vanished ?? 0))
        load = nil
        return outcomes
    }

    /// Measures, with nothing broken and no other load.
    func add(_ fault: Fault, wait: Duration, _ outcomes: [SoakLoad.Outcome]) async throws {
        var latency: [String: SoakLoad.Latency] = [:]
        let before = ProcessorUse.now(of: world.members.map(\.pid))
        let echo = SoakLoad.Work(name: "echo", arguments: echo(perSecond: echoesPerSecond / 2, seconds: 2))
        for work in [echo] + handshakes(seconds: 0.3, connections: 4) {
            latency[work.name] = try await Self.measure(work, in: world)
        }
        world.noteVanished(5)
        let use = ProcessorUse.now(of: world.members.map(\.pid))
        func ofEach(_ value: (pid_t) -> Int) -> [String: Int] {
            Dictionary(uniqueKeysWithValues: world.members.map { ($0.name, value($0.pid)) })
        }
        samples.append(
            Sample(
                seconds: (ContinuousClock.now - start).inSeconds, fault: fault.rawValue, wait: wait.inSeconds,
                memory: ofEach(FaultWorld.memory), descriptors: ofEach(ProcessTable.openDescriptors),
                latency: latency, others: use.shareOfOthers(since: before), runs: outcomes.count,
                failed: outcomes.count { $0.obstacle != nil },
                obstacle: outcomes.first { $0.obstacle != nil }.map { "\($0.work): \($0.obstacle ?? "")" }))
        try write()
    }

    /// - Throws: where it was not flat.
    func finish() throws {
        let bad = verdict.judgements.filter { !$0.isFlat }
        guard bad.isEmpty else {
            throw NeverHappened(description: "this was not flat: \(bad.map(\.text).joined(separator: "; "))")
        }
        print(verdict.text)
    }

    private var verdict: SoakVerdict { SoakVerdict(on: samples, length: Double(length)) }

    // MARK: Writing

    private func write() throws {
        func save(_ text: String, as name: String) throws {
            try Data(text.utf8).write(to: folder.appending(path: name))
        }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        try save(
            samples.map { String(decoding: try encoder.encode($0), as: UTF8.self) + "\n" }.joined(), as: "samples.jsonl"
        )
        try save(table { $0.memory.mapValues { Double($0) / 1_024 } }, as: "memory.tsv")
        try save(table { $0.descriptors.mapValues(Double.init) }, as: "descriptors.tsv")
        try save(table { $0.latency.mapValues { $0.median * 1_000 } }, as: "median.tsv")
        try save(table { $0.latency.mapValues { $0.p99 * 1_000 } }, as: "p99.tsv")
        try save(table { ["longest wait": $0.wait] }, as: "wait.tsv")
        try save(table { ["other programs": $0.others * 100] }, as: "others.tsv")
        // From when on no fault ends a process, and from when on it is judged, in minutes.
        try save("calm = \(Double(length) / 120)\njudged = \(Double(length) / 100)\n", as: "times.gp")
        try save(
            SoakPage(
                samples: samples, verdict: verdict, seed: seed, echoesPerSecond: echoesPerSecond,
                handshakesPerSecond: handshakesPerSecond
            ).html, as: "report.html")
    }

    /// For gnuplot: minutes, and a column for each name.
    private func table(_ values: (Sample) -> [String: Double]) -> String {
        let names = Set(samples.flatMap { values($0).keys }).sorted()
        let rows = samples.map { sample in
            ([sample.seconds / 60] + names.map { values(sample)[$0] }).map { $0.map { "\($0)" } ?? "?" }
        }
        return ([["minutes"] + names] + rows).map { $0.joined(separator: "\t") + "\n" }.joined()
    }
}

/// Seconds of processor time since the machine and the processes were started.
private struct ProcessorUse {
    private var all: Double
    /// Of the processes of the daemon, of the test, and of the programs that it has started and that have ended.
    private var own: Double
    private var time = ContinuousClock.now

    static func now(of members: [pid_t]) -> ProcessorUse {
        let ticks = Double(sysconf(Int32(_SC_CLK_TCK)))
        // proc(5): user, nice, system, idle, iowait, irq, softirq, steal.
        let columns = ProcessTable.text(of: "/proc/stat").prefix { $0 != "\n" }.split(separator: " ").dropFirst()
            .compactMap { Double($0) }
        let busy = columns.prefix(8).reduce(0, +) - columns.dropFirst(3).prefix(2).reduce(0, +)
        let own = ([getpid()] + members).reduce(0.0) { sum, pid in
            let text = ProcessTable.text(of: "/proc/\(pid)/stat")
            let fields = text.split(separator: ")").last?.split(separator: " ").compactMap { Double($0) } ?? []
            // From the parent on, since the state is no number: 10 to 13 are utime, stime, and those of children that have
            // been waited for, which for the daemon are processes that have died.
            return sum + fields.dropFirst(10).prefix(pid == getpid() ? 4 : 2).reduce(0, +)
        }
        return ProcessorUse(all: busy / ticks, own: own / ticks)
    }

    func shareOfOthers(since earlier: ProcessorUse) -> Double {
        let seconds = (time - earlier.time).inSeconds * Double(ProcessInfo.processInfo.processorCount)
        return max(0, (all - earlier.all) - (own - earlier.own)) / max(seconds, 1e-9)
    }
}

extension Duration {
    fileprivate var inSeconds: Double { Double(components.seconds) + Double(components.attoseconds) / 1e18 }
}

/// What a soak has found, as a page beside the drawings of `Benchmarks/soak.gnuplot`.
struct SoakPage {
    let samples: [Soak.Sample]
    let verdict: SoakVerdict
    let seed: UInt64
    let echoesPerSecond: Double
    let handshakesPerSecond: Double

    private static func escaped(_ text: String) -> String {
        text.replacing("&", with: "&amp;").replacing("<", with: "&lt;")
    }

    var html: String {
        """
        <!doctype html>
        <html lang="en"><meta charset="utf-8"><title>Soak</title>
        <style>
        body { font: 14px system-ui, sans-serif; max-width: 980px; margin: 2em auto }
        img { width: 100% } table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: right }
        td:first-child, th:first-child, td.text { text-align: left } .bad { color: #cf222e; font-weight: bold }
        </style>
        <h1>Soak</h1>
        <p><b>\(verdict.text)</b> \(samples.count) faults in \(short((samples.last?.seconds ?? 0) / 60)) minutes, seed \(seed).
        After each of them every client was served, had heard what it had said and nothing else, the counters added up, and
        all sockets of silent clients were closed.
        <p>The load beside the faults was a quarter of \(short(echoesPerSecond)) echoes a second and a quarter of
        \(short(handshakesPerSecond)) full handshakes a second, which is what the machine could do of either alone at
        the beginning, with handshakes of five kinds in turn, slow clients, clients that go without a word, one that comes back
        from its port without what it knew, and garbage.
        Latency was measured after each fault, with nothing broken: echoes at half of what the machine can do, and
        handshakes of each kind, four at once.
        <h2>Verdict</h2>
        <p>Of the last 40 % of the time, from the line in the plots on (faults that end processes happen in the first half alone,
        up to the dashed line): the slope (Theil and Sen) over that time, against what is allowed: 10 % of the median or 2 MB of memory, 10 % or 4 descriptors, 25 % or 1 ms of
        a median latency, 50 % or 10 ms of one of 99 %. Of \(samples.count) measurements of latency,
        \(samples.count { $0.others > SoakVerdict.mostOfOthers }) are not judged, since other programs used more than
        \(short(SoakVerdict.mostOfOthers * 100)) % of the processors meanwhile.
        <table><tr><th>what<th>median<th>change<th>allowed<th></tr>
        \(verdict.judgements.map(Self.row).joined(separator: "\n"))
        </table>
        <h2>Memory that no other process shares (MB)</h2><img src="memory.svg" alt="memory">
        <h2>Open descriptors</h2><img src="descriptors.svg" alt="descriptors">
        <h2>Latency, median (ms)</h2><img src="median.svg" alt="median latency">
        <h2>Latency, 99 % (ms)</h2><img src="p99.svg" alt="latency of 99 %">
        <h2>Longest wait of a client for an answer right after a fault, under load (s)</h2><img src="wait.svg" alt="longest wait">
        <h2>What other programs had of the processors while latency was measured (%)</h2>
        <img src="others.svg" alt="other programs">
        <h2>By fault</h2>
        <p>What fails beside a fault is what the fault keeps from it; connections that were there before are the clients
        above, of which none may fail.
        <table><tr><th>fault<th>times<th>longest wait (s)<th>runs of the load<th>failed<th>why the last one did</tr>
        \(faults)
        </table></html>

        """
    }

    private static func row(_ one: SoakVerdict.Judgement) -> String {
        guard one.isJudged else { return "<tr><td>\(one.name)<td><td><td><td>too few samples</tr>" }
        return "<tr\(one.isFlat ? "" : " class=\"bad\"")><td>\(one.name)<td>\(short(one.median)) \(one.unit)"
            + "<td>\(short(one.rise))<td>\(short(one.allowed))<td>\(one.isFlat ? "flat" : "not flat")</tr>"
    }

    private var faults: String {
        Dictionary(grouping: samples, by: \.fault).sorted { $0.key < $1.key }.map { fault, samples in
            let obstacle = samples.compactMap(\.obstacle).last ?? ""
            return "<tr><td>\(fault)<td>\(samples.count)<td>\(short(samples.map(\.wait).max() ?? 0))"
                + "<td>\(samples.reduce(0) { $0 + $1.runs })<td>\(samples.reduce(0) { $0 + $1.failed })"
                + "<td class=\"text\">\(Self.escaped(obstacle))</tr>"
        }.joined(separator: "\n")
    }
}
