"""The sources that are files of the kernel or tools that answer at once."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from devices.telemetry.cpufreq import CORES, CpufreqReader, core_loads, core_times, cpufreq_reader
from devices.telemetry.load import LoadReader, machine_work_s, own_work_s
from devices.telemetry.nvidia import FIELDS, arguments, nvidia_reader, parse, spellings
from devices.telemetry.nvpmodel import caps_mhz, nvpmodel_reader, power_mode
from devices.telemetry.overcurrent import overcurrent_reader
from devices.telemetry.rapl import RaplReader, rapl_reader
from devices.telemetry.readers import readers_of_this_machine
from devices.telemetry.reading import ReaderError, Reading
from devices.telemetry.thermal import limit_c, thermal_reader
from devices.telemetry.vcgencmd import throttle_bits, vcgencmd_reader

THERMAL = "sys/class/thermal"
CPU = "sys/devices/system/cpu"
RAPL = "sys/class/powercap"


def nobody(command):
    return None


# ---- nvpmodel


def test_nvpmodel_names_its_mode(recorded):
    assert power_mode("".join(recorded("nvpmodel.txt"))) == "MAXN"
    assert power_mode("".join(recorded("nvpmodel-verbose.txt"))) == "MAXN"
    assert power_mode("NVPM ERROR: permission denied") is None


def test_nvpmodel_reads_with_the_caps_of_its_mode(recorded, answers, board):
    root = board({"etc/nvpmodel.conf": "".join(recorded("nvpmodel-conf.txt"))})
    ask = answers({"nvpmodel -q": "NV Power Mode: 15W\n0\n"})
    reader = nvpmodel_reader(root, ask)
    assert reader.read().settings == {
        "power mode": "15W",
        "caps": "CPU_A78_0 at most 1498 MHz, GPU at most 612 MHz",
    }
    ask.answers["nvpmodel -q"] = "NV Power Mode: MAXN_SUPER\n2\n"
    assert reader.read().settings == {"power mode": "MAXN_SUPER"}  # no caps
    ask.answers.clear()
    with pytest.raises(ReaderError, match="no longer names a mode"):
        reader.read()
    assert nvpmodel_reader(root, ask) is None


def test_nvpmodel_knows_no_caps_of_a_mode_that_is_not_in_the_file(recorded):
    configuration = "".join(recorded("nvpmodel-conf.txt"))
    assert caps_mhz(configuration, "15W") == {"CPU_A78_0": 1497.6, "GPU": 612.0}
    assert caps_mhz(configuration, "30W") == {}
    assert caps_mhz("", "15W") == {}


# ---- vcgencmd


def test_vcgencmd_puts_its_bits_into_words(recorded, answers):
    temp, clock, capped, voltage, never, soft = recorded("vcgencmd.txt")
    ask = answers({
        "vcgencmd get_throttled": voltage,
        "vcgencmd measure_temp": temp,
        "vcgencmd measure_clock arm": clock,
    })  # fmt: skip
    reader = vcgencmd_reader(ask)
    reading = reader.read()
    assert reading.temperatures_c == {"chip": 90.8}
    assert reading.clocks_mhz == {"arm": 600}
    assert reading.throttled == ("under-voltage", "throttled")
    assert reading.events == {
        "under-voltage": 1, "arm clock capped": 0, "throttled": 1, "soft temperature limit": 0,
    }  # fmt: skip
    ask.answers = {"vcgencmd get_throttled": capped}
    reading = reader.read()
    assert (reading.throttled, reading.events["arm clock capped"]) == (("arm clock capped",), 1)
    assert (reading.temperatures_c, reading.clocks_mhz) == ({}, {})
    ask.answers = {"vcgencmd get_throttled": soft}
    assert reader.read().throttled == ("soft temperature limit",)
    ask.answers = {"vcgencmd get_throttled": never}
    assert reader.read() == Reading(events=dict.fromkeys(reading.events, 0))
    ask.answers = {}
    with pytest.raises(ReaderError, match="get_throttled no longer answers"):
        reader.read()


@pytest.mark.parametrize("answer", ["", "throttled=", "throttled=0x", "VCHI failed", "0x50005"])
def test_vcgencmd_that_says_nothing_is_no_source(answer, answers):
    assert throttle_bits(answer) is None
    assert vcgencmd_reader(answers({"vcgencmd get_throttled": answer})) is None


# ---- nvidia-smi


def test_nvidia_smi_of_either_spelling(recorded):
    working, hot, little = recorded("nvidia-smi.txt")
    for fields in spellings()[:2]:
        assert parse(working, fields) == Reading(
            clocks_mhz={"gpu": 1980, "gpu memory": 2619},
            busy={"gpu": 0.97},
            temperatures_c={"gpu": 41},
            power_mw={"gpu": 288520},
            memory_mib={"gpu used": 2048, "gpu total": 143771},
        )
        assert parse(hot, fields).throttled == (
            "gpu slowed by its hardware", "gpu too hot (hardware)", "gpu too hot (driver)",
        )  # fmt: skip
        assert parse(little, fields) == Reading(busy={"gpu": 0.12}, temperatures_c={"gpu": 47})


def test_nvidia_smi_cut_anywhere_says_less_and_nothing_wrong(recorded):
    fields = spellings()[0]
    for line in recorded("nvidia-smi.txt"):
        whole = parse(line, fields)
        for end in range(len(line)):
            cut = parse(line[:end], fields)
            assert set(cut.throttled) <= set(whole.throttled)
            for part in ("clocks_mhz", "busy", "temperatures_c", "power_mw", "memory_mib"):
                assert getattr(cut, part).items() <= getattr(whole, part).items(), line[:end]


@pytest.mark.parametrize("known", [0, 1, 2])
def test_nvidia_smi_is_asked_for_what_its_driver_knows(answers, recorded, known):
    command = " ".join(("nvidia-smi", *arguments(spellings()[known])))
    ask = answers({command: recorded("nvidia-smi.txt")[0]})
    assert nvidia_reader(ask) is not None
    assert len(ask.asked) == known + 1  # older spellings come later
    assert spellings()[2] == FIELDS
    assert nvidia_reader(nobody) is None


# ---- thermal


def test_thermal_zones_tell_heat_limits_and_what_slows_down(board):
    root = board({
        f"{THERMAL}/thermal_zone0/type": "cpu-thermal",
        f"{THERMAL}/thermal_zone0/temp": 52562,
        f"{THERMAL}/thermal_zone0/trip_point_0_type": "active",
        f"{THERMAL}/thermal_zone0/trip_point_0_temp": 51000,
        f"{THERMAL}/thermal_zone0/trip_point_1_type": "passive",
        f"{THERMAL}/thermal_zone0/trip_point_1_temp": 99000,
        f"{THERMAL}/thermal_zone0/trip_point_2_type": "critical",
        f"{THERMAL}/thermal_zone0/trip_point_2_temp": 104500,
        f"{THERMAL}/thermal_zone1/type": "gpu-thermal",  # switched off: no temp to read
        f"{THERMAL}/thermal_zone10/type": "cpu-thermal",
        f"{THERMAL}/thermal_zone10/temp": 40000,
        f"{THERMAL}/cooling_device0/type": "pwm-fan",
        f"{THERMAL}/cooling_device0/cur_state": 3,
        f"{THERMAL}/cooling_device1/type": "cpu-throttle-alert",
        f"{THERMAL}/cooling_device1/cur_state": 0,
        f"{THERMAL}/cooling_device2/type": "intel_powerclamp",
        f"{THERMAL}/cooling_device2/cur_state": -1,
        f"{THERMAL}/cooling_device3/type": "LCD",
        f"{THERMAL}/cooling_device3/cur_state": 80,
    })  # fmt: skip
    reader = thermal_reader(root)
    assert reader.read() == Reading(
        temperatures_c={"cpu-thermal": 52.562, "cpu-thermal 10": 40.0},
        limits_c={"cpu-thermal": 99.0},
    )
    board({f"{THERMAL}/cooling_device1/cur_state": 1})
    assert reader.read().throttled == ("cooling device cpu-throttle-alert",)


@pytest.mark.parametrize(
    ("trips", "limit"),
    [
        ({}, None),
        ({"passive": 0}, None),
        ({"passive": -274000}, None),
        ({"passive": 4_294_967_295}, None),
        ({"critical": 110000}, None),
        ({"passive": 75000, "passive again": 85000}, 85.0),
    ],
)
def test_only_a_passive_trip_point_is_a_limit(board, trips, limit):
    files = {}
    for number, (kind, temperature) in enumerate(trips.items()):
        files[f"zone/trip_point_{number}_type"] = kind.split()[0]
        files[f"zone/trip_point_{number}_temp"] = temperature
    assert limit_c(board(files) / "zone") == limit


def test_zones_that_go_away_are_an_error_and_none_is_no_source(board, tmp_path):
    assert thermal_reader(tmp_path) is None
    zone = f"{THERMAL}/thermal_zone0"
    root = board({f"{zone}/type": "cpu", f"{zone}/temp": 40000})
    reader = thermal_reader(root)
    board({f"{zone}/temp": "?"})
    with pytest.raises(ReaderError, match="no thermal zone"):
        reader.read()


# ---- over-current


def test_over_current_alarms_are_counted(board, tmp_path):
    assert overcurrent_reader(tmp_path) is None
    root = board({
        "sys/class/hwmon/hwmon3/oc1_event_cnt": 0,
        "sys/class/hwmon/hwmon3/oc3_event_cnt": 1,
        "sys/class/hwmon/hwmon3/oc3_throt_en": 1,
    })  # fmt: skip
    reader = overcurrent_reader(root)
    assert reader.read().events == {"over-current alarm 1": 0, "over-current alarm 3": 1}
    board({"sys/class/hwmon/hwmon3/oc1_event_cnt": ""})
    with pytest.raises(ReaderError, match=r"oc1_event_cnt says '', not a count"):
        reader.read()


# ---- cpufreq


def stat(*cores):
    """``/proc/stat`` of cores that were busy and idle for so many ticks."""
    return "cpu  1 2 3\n" + "\n".join(
        f"cpu{core} {busy} 0 0 {idle} 0 0 0 0 0 0" for core, (busy, idle) in enumerate(cores)
    )


def cores(**files):
    """Files of cores 0 and up: lists of values by the name of the file."""
    return {
        f"{CPU}/cpu{core}/{name.replace('__', '/')}": value
        for name, values in files.items()
        for core, value in enumerate(values)
    }


def test_the_cores_under_load_give_the_clock(board):
    files = cores(
        cpufreq__scaling_cur_freq=[1_500_000, 2_400_000, 600_000],
        cpufreq__cpuinfo_max_freq=[2_400_000] * 3,
        cpufreq__scaling_governor=["ondemand"] * 3,
    )
    root = board(files | {"proc/stat": stat((100, 100), (100, 100), (100, 100))})
    reader = CpufreqReader(root, [0, 1, 2])
    board({"proc/stat": stat((190, 110), (110, 190), (100, 200))})
    reading = reader.read()
    assert reading.clocks_mhz == {"cpu": 1500}  # 90 % busy; the faster one is idle
    assert reading.busy == {"cpu": 0.9}
    assert reading.settings == {"governor": "ondemand"}
    assert reading.events == {}


def test_big_and_little_cores_have_clocks_of_their_own(board):
    files = cores(
        cpufreq__scaling_cur_freq=[1_800_000, 2_400_000],
        cpufreq__cpuinfo_max_freq=[1_800_000, 2_400_000],
        cpufreq__scaling_governor=["schedutil", "performance"],
    )
    reading = CpufreqReader(board(files | {"proc/stat": stat((1, 1), (1, 1))}), [0, 1]).read()
    assert reading.clocks_mhz == {"cpu 1800 MHz": 1800, "cpu 2400 MHz": 2400}
    assert reading.settings == {"governor": "schedutil + performance"}


def test_an_x86_core_counts_how_often_it_throttled(board):
    files = cores(
        thermal_throttle__core_throttle_count=[3, 0],
        thermal_throttle__package_throttle_count=[7, 7],
    )
    reader = CpufreqReader(board(files), [0, 1])
    assert reader.read() == Reading(events={"core too hot": 3, "package too hot": 7})


def test_a_server_has_only_some_of_its_cores_looked_at(board):
    files = cores(cpufreq__scaling_cur_freq=[1_000_000 + core for core in range(CORES + 8)])
    reader = CpufreqReader(board(files), range(CORES + 8))
    assert reader.read().clocks_mhz == {"cpu": (1_000_000 + CORES - 1) / 1000}


def test_a_virtual_machine_tells_no_clocks(tmp_path):
    assert cpufreq_reader(tmp_path) is None


def test_a_core_that_goes_away_is_an_error(board):
    root = board(cores(cpufreq__scaling_cur_freq=[1_000_000]))
    reader = CpufreqReader(root, [0])
    (root / f"{CPU}/cpu0/cpufreq/scaling_cur_freq").unlink()
    with pytest.raises(ReaderError, match="scaling_cur_freq can no longer be read"):
        reader.read()


def test_loads_of_a_damaged_stat_are_absent():
    assert core_times("cpu0 1 2 3\ncpu1 x\ncpu2 1 1 1 1 1 1 1 1 9 9\n") == {2: (6, 8)}
    assert core_loads({0: (5, 10)}, {0: (5, 10), 1: (1, 2)}) == {}
    assert core_loads({0: (9, 10)}, {0: (8, 20)}) == {0: 0.0}  # a count that fell


# ---- RAPL


def test_rapl_counts_on_over_the_end_of_its_counter(board):
    package = f"{RAPL}/intel-rapl:0"
    root = board({
        f"{package}/name": "package-0",
        f"{package}/energy_uj": 990_000,
        f"{package}/max_energy_range_uj": 1_000_000,
        f"{RAPL}/intel-rapl:0:0/name": "core",
        f"{RAPL}/intel-rapl:0:0/energy_uj": 5,
        f"{RAPL}/intel-rapl:1/name": "psys",
        f"{RAPL}/intel-rapl:1/energy_uj": 5,
    })  # fmt: skip
    times = iter([0.0, 2.0, 3.0, 3.0, 4.0])
    assert rapl_reader(root) is not None
    reader = RaplReader({"package-0": root / package}, lambda: next(times))
    board({f"{package}/energy_uj": 30_000})  # over its end
    first = reader.read()
    assert first.energy_mj == {"package-0": 40.0}
    assert first.power_mw == {"package-0": 20.0}
    board({f"{package}/energy_uj": 130_000})
    second = reader.read()
    assert (second.energy_mj, second.power_mw) == ({"package-0": 140.0}, {"package-0": 100.0})
    assert reader.read().power_mw == {}  # no time passed
    board({f"{package}/energy_uj": ""})
    with pytest.raises(ReaderError, match="energy_uj can no longer be read"):
        reader.read()


def test_rapl_that_only_root_may_read_is_no_source(board):
    assert rapl_reader(board({f"{RAPL}/intel-rapl:0/name": "package-0"})) is None


# ---- load by others


def test_others_are_all_work_but_our_own():
    work = iter([100.0, 101.0, 101.02, 103.0])
    own = iter([10.0, 10.4, 10.4, 13.0])
    times = iter([0.0, 2.0, 2.01, 4.0])
    reader = LoadReader(lambda: next(work), lambda: next(own), lambda: next(times))
    assert reader.read().other_load == pytest.approx(0.3)
    assert reader.read().other_load is None  # too soon after
    assert reader.read().other_load == 0.0  # ticks are coarse: never below nothing


def test_work_is_all_but_waiting_and_other_guests_of_the_host_count(monkeypatch):
    times = SimpleNamespace(
        user=1.0, nice=2.0, system=4.0, idle=8.0, iowait=16.0, irq=32.0, softirq=64.0,
        steal=128.0, guest=1.0, guest_nice=2.0,
    )  # fmt: skip
    monkeypatch.setattr("devices.telemetry.load.psutil.cpu_times", lambda: times)
    assert machine_work_s() == 1 + 2 + 4 + 32 + 64 + 128
    monkeypatch.setattr(
        "devices.telemetry.load.psutil.cpu_times",
        lambda: SimpleNamespace(user=1.0, system=4.0, idle=8.0),  # elsewhere than on Linux
    )
    assert machine_work_s() == 5


def spin(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_our_own_work_holds_that_of_children_running_and_ended():
    before = own_work_s()
    spin(0.1)
    alone = own_work_s()
    assert alone - before >= 0.1
    code = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        running = own_work_s()
        assert running - alone >= 0.15
        child.communicate(b"\n")
    assert own_work_s() - alone >= 0.15


def test_a_kernel_without_lists_of_children_is_asked_through_psutil(tmp_path):
    code = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    before = own_work_s(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        assert own_work_s(tmp_path) - before >= 0.15
        child.communicate(b"\n")


# ---- all of them


def test_a_bare_machine_still_tells_the_load(tmp_path):
    assert [reader.name for reader in readers_of_this_machine(tmp_path, nobody)] == ["psutil"]


def test_a_board_has_its_own_tools_first(board, answers, recorded):
    root = board(
        cores(cpufreq__scaling_cur_freq=[1_000_000] * (os.cpu_count() or 1))
        | {
            "usr/bin/tegrastats": "#!/bin/sh",
            f"{THERMAL}/thermal_zone0/type": "cpu-thermal",
            f"{THERMAL}/thermal_zone0/temp": 40000,
        }
    )
    (root / "usr/bin/tegrastats").chmod(0o755)
    ask = answers({"nvpmodel -q": "".join(recorded("nvpmodel.txt"))})
    found = readers_of_this_machine(root, ask)
    assert [reader.name for reader in found] == [
        "tegrastats", "nvpmodel", "thermal", "cpufreq", "psutil",
    ]  # fmt: skip
    for reader in found:
        reader.close()
