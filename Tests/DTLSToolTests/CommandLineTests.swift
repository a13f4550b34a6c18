import ArgumentParser
import Primitives
import Testing

@testable import dtls

@Suite struct CommandLineTests {
    @Test func `the tool has the version of the package`() {
        #expect(DTLSTool.configuration.version == ProgramVersion.current)
        #expect(DTLSTool.configuration.commandName == "dtls")
    }
}
