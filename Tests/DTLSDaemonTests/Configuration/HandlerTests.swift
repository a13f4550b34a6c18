import LinuxSystem
import Testing

@testable import DTLSDaemon

/// The tables of the handlers "exec" and "log".
@Suite struct ConfigurationHandlerTests {
    private func service(_ handler: String, _ lines: String = "") -> String {
        """
        [service.a]
        certificate = "server.pem"
        private_key = "server.key"
        handler = "\(handler)"
        \(lines)
        """
    }

    private func handler(_ text: String) throws -> HandlerConfiguration? {
        try ConfigurationFolder().read(text).services.first?.handler
    }

    @Test func `the settings of exec are read`() throws {
        #expect(
            try handler(
                service(
                    "exec",
                    "[service.a.exec]\ncommand = [\"/bin/sh\", \"-c\", \"\"]\nprograms_per_worker = 7\n"
                        + "memory = 2\ncpu_time = 3\nopen_files = 4"))
                == .exec(
                    ExecConfiguration(
                        command: try .of("/bin/sh", "-c", ""), programsPerWorker: 7,
                        limits: .init(memory: 2_097_152, processorTime: 3, openFiles: 4))))
        #expect(
            try handler(service("exec", "exec.command = \"/bin/sh\""))
                == .exec(
                    ExecConfiguration(
                        command: try .of("/bin/sh"), programsPerWorker: 100, limits: .init(openFiles: 1_024))))
    }

    private static let command =
        "an array of the program's absolute path and its arguments, [\"/usr/bin/PROGRAM\", \"ARGUMENT\"]"

    @Test(arguments: [
        ("exec = {}", "missing; expected \(command)"),
        ("exec.command = 3", "expected \(command), found 3"),
        ("exec.command = []", "expected \(command), found an empty array"),
        ("exec.command = [\"/bin/sh\", 3]", "expected \(command), found 3"),
        ("exec.command = [\"sh\"]", "expected \(command), found \"sh\""),
        (
            "exec.command = \"/bin/sh -c ls\"",
            "cannot find the program \"/bin/sh -c ls\": No such file or directory; expected \(command)"
        ),
        (
            "exec.command = [\"/no/such\"]",
            "cannot find the program \"/no/such\": No such file or directory; expected a program that is there"
        ),
        ("exec.command = [\"/bin\"]", "\"/bin\" is not a regular file; expected a program"),
        (
            "exec.command = [\"/etc/passwd\"]",
            "this user may not execute \"/etc/passwd\" (Permission denied); expected a program that dtlsd's user may"
                + " execute: chmod 755"
        ),
    ])
    func `a command that is not a program is refused`(_ line: String, _ expected: String) throws {
        #expect(
            try ConfigurationFolder().problems(service("exec", line)) == [
                "dtlsd.toml:5: service.a.exec.command: \(expected)"
            ])
    }

    @Test func `limits of programs that are out of range are refused`() throws {
        let text = service(
            "exec",
            """
            [service.a.exec]
            command = ["/bin/sh"]
            programs_per_worker = 0
            memory = 1048577
            cpu_time = 0.5
            open_files = 2
            comand = 1
            """)
        #expect(
            try ConfigurationFolder().problems(text) == [
                "dtlsd.toml:7: service.a.exec.programs_per_worker: expected an integer, 1 to 10000, found 0",
                "dtlsd.toml:8: service.a.exec.memory: expected an integer of MiB, 1 to 1048576, found 1048577",
                "dtlsd.toml:9: service.a.exec.cpu_time: expected an integer of seconds, 1 to 86400,"
                    + " or a time such as \"12h\", found 0.5",
                "dtlsd.toml:10: service.a.exec.open_files: expected an integer, 3 to 524288, found 2",
                "dtlsd.toml:11: service.a.exec.comand: unknown key; did you mean \"command\"?",
            ])
    }

    @Test func `the settings of log are read`() throws {
        let journal = LogTarget.journal(socket: "/run/systemd/journal/socket")
        let folder = try ConfigurationFolder()
        try folder.write("messages", "")
        for (lines, target, format) in [
            ("", journal, LogFormat.plain),
            ("log = {}", journal, .plain),
            ("log.to = \"journal\"\nlog.format = \"syslog\"", journal, .syslog),
            ("log.to = \"journal:/run/other\"", .journal(socket: "/run/other"), .plain),
            ("log.to = \"syslog\"", .syslog(socket: "/dev/log"), .syslog),
            ("log.to = \"syslog:/run/log\"\nlog.format = \"plain\"", .syslog(socket: "/run/log"), .plain),
            ("log.to = \"file:\(folder.path)/new\"", .file("\(folder.path)/new"), .plain),
            ("log.to = \"file:\(folder.path)/messages\"", .file("\(folder.path)/messages"), .plain),
        ] {
            #expect(try handler(service("log", lines)) == .log(LogConfiguration(target: target, format: format)))
        }
    }

    private static let file = "expected the absolute path of a file, in a folder that dtlsd's user may write to"
    private static let socket =
        "expected the absolute path of a Unix datagram socket, at most 107 bytes, after the colon"

    @Test(arguments: [
        ("file", "found the string \"file\""), ("stderr", "found the string \"stderr\""),
        ("file:messages", "\(file), after \"file:\", found \"messages\""),
        ("file:/tmp/", "\(file), after \"file:\", found \"/tmp/\""),
        ("file:/tmp", "\"/tmp\" is not a regular file; \(file)"),
        ("file:/dev/null", "\"/dev/null\" is not a regular file; \(file)"),
        ("file:/no/such/file", "cannot create \"/no/such/file\": No such file or directory; \(file)"),
        ("syslog:", "\(socket), found \"\""), ("journal:x", "\(socket), found \"x\""),
        ("syslog:/\(String(repeating: "x", count: 107))", "\(socket), found"),
    ])
    func aPlaceThatIsNone(_ place: String, _ expected: String) throws {
        let problems = try ConfigurationFolder().problems(service("log", "log.to = \"\(place)\""))
        #expect(problems.count == 1)
        let problem = try #require(problems.first)
        #expect(problem.hasPrefix("dtlsd.toml:5: service.a.log.to: ") && problem.contains(expected), "\(problem)")
    }

    @Test func `an unknown format is refused`() throws {
        #expect(
            try ConfigurationFolder().problems(service("log", "log.format = \"json\"")) == [
                "dtlsd.toml:5: service.a.log.format: expected \"plain\" or \"syslog\", found the string \"json\""
            ])
    }
}
