import DTLSTransport
import LinuxSystem

/// The counters of all processes, as the main process keeps them: its own, and a ``CounterFile`` for each table of
/// connections, over the deaths of the workers that write it.
final class CounterRegistry {
    /// What this process counts itself.
    let main: CounterFile
    /// By the numbers of the tables.
    private var files: [Int: CounterFile] = [:]
    /// The services and clients that were ever configured, by ``SlotTarget``.
    private var tables: [UInt64: ListeningTable] = [:]

    init() throws(SystemError) { main = try CounterFile(name: "dtlsd-counters") }

    /// The services and clients of a configuration that is active from now on.
    func activate(_ configuration: Configuration) {
        for table in configuration.listeningTables { tables[table.slotTarget] = table }
    }

    /// The file of a table, which is made when it is first asked for.
    func file(ofTable number: Int) throws(SystemError) -> CounterFile {
        if let file = files[number] { return file }
        let file = try CounterFile(name: "dtlsd-counters-\(number)")
        files[number] = file
        return file
    }

    /// Where this process counts for a service or client.
    /// - Parameter target: its ``SlotTarget``.
    func counters(of target: UInt64) -> TargetCounters { main.counters(of: target) }

    /// What all processes have counted for each service or client, by its ``SlotTarget``.
    var targets: [UInt64: CounterValues<TargetCounter>] {
        ([main] + files.values).reduce(into: [:]) { result, file in
            result.merge(file.targets) { one, other in
                var sum = one
                sum.add(other)
                return sum
            }
        }
    }
}
