import pytest

from devices.telemetry.judge import disturbed
from devices.telemetry.reading import Reading, merged
from devices.telemetry.tegrastats import parse
from devices.telemetry.thermal import thermal_reader

FILES = [
    "tegrastats-jetpack4.txt",
    "tegrastats-jetpack4-throttled.txt",
    "tegrastats-jetpack5.txt",
    "tegrastats-jetpack6.txt",
    "tegrastats-jetpack6-throttled.txt",
    "tegrastats-jetpack7.txt",
]


def test_jetpack_4_has_rails_without_a_unit(recorded):
    nano, tx2, agx, nx = map(parse, recorded("tegrastats-jetpack4.txt"))
    assert nano == Reading(
        clocks_mhz={"cpu": 204, "gpu": 76, "memory": 204},
        busy={"cpu": 0.16, "gpu": 0.0},
        temperatures_c={
            "PLL": 34, "CPU": 36.5, "PMIC": 100, "GPU": 36, "AO": 39.5, "thermal": 36.25,
        },
        power_mw={"POM_5V_IN": 1022, "POM_5V_GPU": 0, "POM_5V_CPU": 204},
        memory_mib={"used": 534, "total": 3964, "swap": 5},
    )  # fmt: skip
    assert tx2.clocks_mhz == {"cpu": 345, "gpu": 624, "memory": 1600}  # two cores are off
    assert tx2.power_mw["VDD_IN"] == 3056
    assert agx.power_mw == {
        "GPU": 0, "CPU": 311, "SOC": 932, "CV": 0, "VDDRQ": 621, "SYS5V": 1482,
    }  # fmt: skip
    assert nx.busy == {"cpu": 0.09, "gpu": 0.62}
    assert nx.clocks_mhz["cpu"] == 1267  # no core under load: the fastest


def test_jetpack_5_has_units_and_either_form_of_a_gpu_clock(recorded):
    orin, xavier = map(parse, recorded("tegrastats-jetpack5.txt"))
    assert orin.clocks_mhz == {"cpu": 729, "gpu": 611, "memory": 2133}
    assert orin.power_mw == {"VDD_IN": 5299, "VDD_CPU_GPU_CV": 773, "VDD_SOC": 1424}
    assert orin.temperatures_c["tj"] == 48.875
    assert xavier.clocks_mhz == {"cpu": 1397, "gpu": 114, "memory": 204}
    assert xavier.power_mw == {"VDD_IN": 2763, "VDD_CPU_GPU_CV": 650, "VDD_SOC": 650}


def test_jetpack_6_has_a_gpu_clock_for_each_cluster(recorded):
    (orin,) = map(parse, recorded("tegrastats-jetpack6.txt"))
    assert orin.clocks_mhz == {"cpu": 2201, "gpu": 305, "memory": 2133}
    assert orin.busy == {"cpu": 1.0, "gpu": 0.0}
    assert orin.power_mw == {"VDD_GPU_SOC": 3205, "VDD_CPU_CV": 4405, "VIN_SYS_5V0": 4767}
    assert list(orin.temperatures_c) == ["cpu", "soc2", "soc0", "gpu", "tj", "soc1"]


def test_jetpack_7_tells_less_of_the_gpu_and_more_numbers_a_field(recorded):
    thor, clocks_only, both = map(parse, recorded("tegrastats-jetpack7.txt"))
    assert thor.clocks_mhz == {"cpu": 972}
    assert thor.power_mw == {
        "VDD_GPU": 37528, "VDD_CPU_SOC_MSS": 18961, "VIN_SYS_5V0": 18331, "VIN": 87426,
    }  # fmt: skip
    assert thor.temperatures_c["gpu"] == 62.906
    assert (clocks_only.clocks_mhz["gpu"], "gpu" in clocks_only.busy) == (1098, False)
    assert (both.clocks_mhz["gpu"], both.busy["gpu"]) == (1098, 0.99)
    assert both.temperatures_c == {"cpu": 40.5, "tj": 41.2}


def test_a_unit_that_is_off_has_no_temperature():
    assert parse("CV0@-256C CPU@-5.5C tj@44C \n").temperatures_c == {"CPU": -5.5, "tj": 44}


def test_the_busy_core_gives_the_clock():
    line = "CPU [3%@729,97%@1344,92%@2201,0%@729] GR3D_FREQ 5% \n"
    reading = parse(line)
    assert (reading.clocks_mhz, reading.busy) == ({"cpu": 2201}, {"cpu": 0.97, "gpu": 0.05})


@pytest.mark.parametrize("name", FILES)
def test_a_line_cut_anywhere_says_less_and_nothing_wrong(recorded, name):
    for line in dict.fromkeys(recorded(name)):
        whole = parse(line)
        for end in range(len(line)):
            cut = parse(line[:end])
            for part in ("clocks_mhz", "busy", "temperatures_c", "power_mw", "memory_mib"):
                assert getattr(cut, part).items() <= getattr(whole, part).items(), line[:end]


@pytest.mark.parametrize("name", FILES)
def test_a_line_without_its_beginning_or_a_piece_does_not_raise(recorded, name):
    for line in dict.fromkeys(recorded(name)):
        for begin in range(len(line)):
            parse(line[begin:])
            parse(line[:begin] + line[begin + 7 :])
            parse(line[:begin] + "\x00%@[/" + line[begin:])


def test_a_gpu_that_slows_down_under_load_is_marked(recorded, looks):
    throttled = [parse(line) for line in recorded("tegrastats-jetpack6-throttled.txt")]
    assert len(throttled) == 24
    assert disturbed(looks(*throttled)) == ("the gpu clock fell from 1300 to 816 MHz under load",)
    assert disturbed(looks(*throttled[:12])) == ()  # cool: still
    assert disturbed(looks(*throttled[12:])) == ()  # it never saw better: the zones' limit tells


def test_a_real_throttled_xavier_is_marked_by_its_zone(recorded, looks, board):
    """Its clock fell by 6 %, less than counts; its temperature tells.

    The limit of 86 degrees is this test's own; a board says its own.
    """
    zone = "sys/class/thermal/thermal_zone0"
    root = board({
        f"{zone}/type": "CPU-therm",
        f"{zone}/trip_point_0_type": "passive",
        f"{zone}/trip_point_0_temp": 86000,
    })  # fmt: skip
    seen = []
    for line in recorded("tegrastats-jetpack4-throttled.txt"):
        reading = parse(line)
        board({f"{zone}/temp": int(reading.temperatures_c["CPU"] * 1000)})
        seen += [merged([reading, thermal_reader(root).read()])] * 10
    assert disturbed(looks(*seen[:10])) == ()
    assert disturbed(looks(*seen)) == (
        "CPU-therm reached 89.5 C, and from 86 C on the board slows down",
    )
