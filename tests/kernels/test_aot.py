"""What is read out of compiled code, on pieces of what Triton, ptxas, nvdisasm and LLVM print."""

import pytest
from kdcache_kernels.aot import (
    TARGETS,
    Resources,
    compile_case,
    disassemble,
    exposed_to_hazard,
    read_ptxas_version,
    report,
    require_compiler,
)
from kdcache_kernels.assembly import Loop, read_amd, read_loops, read_nvidia, refilled_while_read
from kdcache_kernels.device.case import Case

LOG = """ptxas info    : Compiling entry function 'gram_ds' for 'sm_90a'
ptxas info    : (C7515) Potential Performance Loss: wgmma.mma_async instructions are serialized due to
    24 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
"""
CODE = """
        /*0a10*/                   LDG.E.128 R4, desc[UR6][R2.64] ;
        /*0a20*/                   LDGSTS.E.BYPASS.128 [R9], desc[UR6][R10.64] ;
        /*0a30*/                   LDG.E.U16.CONSTANT R5, desc[UR6][R2.64] ;
        /*0a40*/                   LDG.E.S8 R5, desc[UR6][R2.64] ;
        /*0a50*/                   LDG.E R5, desc[UR6][R2.64] ;
        /*0a60*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0a70*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;
        /*0a80*/                   UTCHMMA gdesc[UR8], gdesc[UR10], tmem[UR12] ;
        /*0a90*/                   IMMA.16832.S8.S8 R4, R8.ROW, R12.COL, R4 ;
"""
LOOPS = """
        /*0000*/                   IADD3 R1, R1, 0x1, RZ ;
.L_x_0:
        /*0010*/                   LDGSTS.E.BYPASS.LTC128B.128 [R9], desc[UR6][R10.64] ;
        /*0020*/              @!P5 LDG.E R12, desc[UR18][R16.64] ;
.L_x_1:
        /*0030*/                   LDG.E.U16.CONSTANT R5, desc[UR6][R2.64] ;
        /*0040*/               @P1 BRA `(.L_x_1) ;
        /*0050*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0060*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0070*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24, gsb0 ;
        /*0080*/               @P0 BRA `(.L_x_0) ;
        /*0090*/               @P2 BRA `(.L_x_3) ;
.L_x_2:
        /*00a0*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*00b0*/                   HMMA.1688.F32.TF32 R4, R8, R12, R4 ;
        /*00c0*/              @!P0 BRA `(.L_x_2) ;
.L_x_3:
        /*00d0*/                   EXIT ;
.L_x_4:
        /*00e0*/                   BRA `(.L_x_4);
"""
SHARED_OPERANDS = "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%f1,%f2}, %rd1, %rd2, p, 1, 1, 0, 1;"
REGISTER_OPERAND = "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%f1,%f2}, {%r1,%r2}, %rd2, p, 1, 1, 1;"


def resources(**changes: object) -> Resources:
    plain = {"registers": 64, "spill_bytes": 0, "stack_bytes": 0, "shared_bytes": 0, "shared_limit_bytes": 1024}
    return Resources(**{**plain, **changes})


def test_every_number_of_an_nvidia_kernel_is_found() -> None:
    found = read_nvidia("", LOG, CODE)
    assert found == {
        "registers": 255,
        "spill_bytes": 32,
        "stack_bytes": 24,
        "matrix_instructions": {"HGMMA": 2, "IMMA": 1, "UTCHMMA": 1},
        "wide_loads": 2,
        "small_loads": 2,
        "serialised": True,
        "pipelined_register_operand": False,
    }


def test_loops_are_read_with_what_a_turn_does() -> None:
    loops, others = read_loops(LOOPS)
    first = Loop(instructions=8, barriers=1, products=2 * 64 * 16 * (128 + 64), loaded_bytes=32 * (16 + 4 + 2))
    assert loops == [first, Loop(instructions=3, barriers=0, products=2 * 16 * 8 * (16 + 8), loaded_bytes=0)]
    assert others == 4  # before, between, the exit, and the jump to itself that fills the end


def test_code_without_a_loop_has_none() -> None:
    assert read_loops(CODE) == ([], 9)


@pytest.mark.parametrize(
    ("ptx", "pipelined"),
    [
        (f"{REGISTER_OPERAND}\nwgmma.wait_group.sync.aligned 1;", True),
        (f"{REGISTER_OPERAND}\nwgmma.wait_group.sync.aligned 0;", False),
        (f"{SHARED_OPERANDS}\nwgmma.wait_group.sync.aligned 1;", False),
    ],
)
def test_only_a_pipelined_product_with_a_register_operand_is_marked(ptx: str, pipelined: bool) -> None:
    assert read_nvidia(ptx, "", "")["pipelined_register_operand"] is pipelined


LOOP = """
    %a = ttg.local_alloc : () -> !ttg.memdesc<3x64x128xbf16, #shared, #smem, mutable>
    %b = ttg.local_alloc : () -> !ttg.memdesc<SLOTSx64x64xbf16, #shared, #smem, mutable>
      %a_1 = ttg.memdesc_index %a[%i] : !ttg.memdesc<3x64x128xbf16> -> !ttg.memdesc<64x128xbf16>
      %a_2 = ttg.memdesc_trans %a_1 {order = array<i32: 1, 0>} : !ttg.memdesc<64x128xbf16> -> !ttg.memdesc<128x64xbf16>
      %b_1 = ttg.memdesc_index %b[%i] : !ttg.memdesc<SLOTSx64x64xbf16> -> !ttg.memdesc<64x64xbf16>
      %c = ttng.warp_group_dot %a_2, %b_1, %arg0 {isAsync = true} : !ttg.memdesc<128x64xbf16> -> tensor<128x64xf32>
      %c_1:2 = ttng.warp_group_dot_wait %c, %a_2 {pendings = PENDINGS : i32} : tensor<128x64xf32>
    %c_2 = ttng.warp_group_dot_wait %loop {pendings = 0 : i32} : tensor<128x64xf32>
"""


@pytest.mark.parametrize(
    ("slots", "pendings", "stages", "refilled"),
    [(2, 1, 3, True), (3, 1, 3, False), (2, 0, 3, False), (2, 1, 2, False), (1, 1, 2, True)],
)
def test_a_buffer_needs_as_many_slots_as_stages_where_products_stay_in_flight(
    slots: int, pendings: int, stages: int, refilled: bool
) -> None:
    ttgir = LOOP.replace("SLOTS", str(slots)).replace("PENDINGS", str(pendings))
    assert refilled_while_read(ttgir, stages) is refilled


def test_an_operand_stored_by_its_own_loop_is_no_pipelined_buffer() -> None:
    """Triton waits for a product right behind it where an operand has one buffer only."""
    ttgir = LOOP.replace("%b_1 = ttg.memdesc_index %b[%i]", "%b_1 = ttg.local_alloc %value").replace("PENDINGS", "1")
    assert not refilled_while_read(ttgir.replace("SLOTS", "1"), 3)


def test_numbers_of_an_amd_kernel_are_found() -> None:
    code = """
        global_load_dwordx4 v[0:3], v[4:5], off
        buffer_load_dwordx4 v[0:3], v4, s[0:3], 0 offen
        global_load_ushort v1, v[2:3], off
        buffer_load_ubyte v1, v2, s[0:3], 0 offen
        global_load_dword v1, v[2:3], off
        v_mfma_f32_32x32x8_bf16_1k a[0:15], v[0:1], v[2:3], a[0:15]
    .private_segment_fixed_size: 16
    .vgpr_count:     190
    .vgpr_spill_count: 3
    """
    assert read_amd(code) == {
        "registers": 190,
        "spill_bytes": 12,
        "stack_bytes": 16,
        "matrix_instructions": {"MFMA": 1},
        "wide_loads": 2,
        "small_loads": 2,
    }


@pytest.mark.parametrize(("ptxas", "exposed"), [((12, 8), True), ((13, 2), True), ((13, 3), False), ((13, 4), False)])
def test_the_hazard_ends_with_ptxas_13_3(ptxas: tuple[int, int], exposed: bool) -> None:
    assert exposed_to_hazard(resources(pipelined_register_operand=True, ptxas=ptxas)) is exposed
    assert not exposed_to_hazard(resources(pipelined_register_operand=False, ptxas=ptxas))


def test_the_version_of_ptxas_is_read() -> None:
    assert read_ptxas_version("Cuda compilation tools, release 12.8, V12.8.93\nBuild cuda_12.8") == (12, 8)
    with pytest.raises(ValueError, match="no release"):
        read_ptxas_version("ptxas")


def test_an_interpreted_process_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=0"):
        require_compiler()
    case = Case(name="any", kernel=None, types={}, constants={}, num_warps=4, num_stages=1)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=0"):
        compile_case(case, "sm_90")
    failed = report(case, "nowhere", "sm_90")
    assert failed.resources is None
    assert failed.error is not None and failed.error.startswith("RuntimeError: TRITON_INTERPRET")


def test_every_target_says_what_a_block_may_use() -> None:
    assert {name: target.shared_limit_bytes // 1024 for name, target in TARGETS.items()} == {
        "sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_103": 227, "sm_120": 99,
        "gfx942": 64, "gfx950": 160,
    }  # fmt: skip


def test_code_that_the_disassembler_does_not_read_is_named_with_its_version() -> None:
    """As nvdisasm 12.8, which Triton 3.6 brings, says of sm_103; the reason would be lost in "exit status 1"."""
    message = r"nvdisasm \d+\.\d+ \(/.*\) does not read code of sm_103: .*nvdisasm.*; name"
    with pytest.raises(RuntimeError, match=message):
        disassemble(b"no cubin", "sm_103")
