import LinuxSystem
import TestSupport
import Testing

extension EndToEndCrowds {
    /// SIGHUP with settings that are wrong: each is named with file, line and key, and nothing changes.
    @Suite struct RefusedSettingsTests {
        let configuration: RichConfiguration

        init() async throws { configuration = try await RichConfiguration() }

        private typealias Wrong = (table: String, key: String, value: String, message: String)

        @Test func `a wrong value of every key changes nothing`() async throws {
            let documented = try ConfigurationKey.documented()
            let wrong = Set(WrongSetting.all.map { ConfigurationKey($0.key, in: $0.table) })
            #expect(documented.subtracting(wrong).isEmpty, "keys of config/dtlsd.toml that have no wrong value here")
            #expect(documented.count > 80)
            try await expectRefused(
                WrongSetting.rounds.map { round in round.map { ($0.table, $0.key, $0.value, $0.message) } })
        }

        /// A value of no key's type, for every key; and a key that no table has, in every table.
        @Test func `wrong types and unknown keys change nothing`() async throws {
            let places = Set(WrongSetting.all.map { [$0.table, $0.key] })
            let dates = places.map { place -> Wrong in (place[0], place[1], "1979-05-27", "found a date or time") }
            let unknown = configuration.text.tables.map { table -> Wrong in (table, "colour", "1", "unknown key") }
            try await expectRefused([dates + unknown])
        }

        /// Each element of `rounds` is what is wrong in one configuration, all at once.
        private func expectRefused(_ rounds: [[Wrong]]) async throws {
            let daemon = try await Daemon.start(configuration.text.text, in: configuration.folder)
            let resident = try client()
            try await resident.exchange("before")
            for (number, round) in rounds.enumerated() {
                var text = configuration.text
                for wrong in round { text.set(wrong.key, to: wrong.value, in: wrong.table) }
                let linesBefore = daemon.log.count
                try daemon.reload(text.text)
                try await daemon.logged("reload failed", count: number + 1)
                let log = daemon.log.dropFirst(linesBefore)
                let check = try Program(
                    [Daemon.binary, "--check", "--config", daemon.configurationFile], in: configuration.folder)
                #expect(try await check.ended() == .exited(78))
                let checked = check.errors.split(separator: "\n")
                for wrong in round {
                    let line = try #require(text.line(of: wrong.key, in: wrong.table))
                    let path = wrong.table.isEmpty ? wrong.key : "\(wrong.table).\(wrong.key)"
                    let place = "\(daemon.configurationFile):\(line): \(path): "
                    func isTold(_ message: Substring) -> Bool {
                        message.contains(place) && message.contains(wrong.message)
                    }
                    let told = log.filter { $0.contains(place) } + checked.filter { $0.contains(place) }
                    #expect(
                        log.contains { isTold($0) && $0.contains(" error ") } && checked.contains(where: isTold),
                        "\(path) = \(wrong.value): expected \"\(place)… \(wrong.message)\", told \(told)")
                }
                try await resident.exchange("after round \(number)")
                let newcomer = try client()
                try await newcomer.exchange("newcomer of round \(number)")
            }
            #expect(!daemon.logs("reloaded"))
            try daemon.reload(configuration.text.text)
            try await daemon.logged("reloaded")
            try await resident.exchange("after all")
            try await daemon.stop()
        }

        private func client() throws -> SecureClient {
            try SecureClient(
                to: configuration.address, trust: configuration.identity.certificate, in: configuration.folder)
        }
    }
}
