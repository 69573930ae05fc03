# Notes for the domain builder, the two entry points, the exception stubs.

# ---- ELF notes (public/elfnote.h) ----

.macro note type
    .balign 4
    .long 4                 # length of the name, with its zero
    .long 2f - 1f
    .long \type
    .asciz "Xen"
1:
.endm

.macro note_string type, text
    note \type
    .asciz "\text"
2:
    .balign 4
.endm

.macro note_quad type, value
    note \type
    .quad \value
2:
.endm

.section .note.Xen, "a", @note
    note_string 5, "xen-3.0"            # XEN_VERSION
    note_string 6, "testguest"          # GUEST_OS
    note_string 7, "0.1"                # GUEST_VERSION
    note_string 8, "generic"            # LOADER
    note_string 9, "yes"                # PAE_MODE
    note_string 10, "!writable_page_tables|pae_pgdir_above_4gb"  # FEATURES
    note_quad 3, 0                      # VIRT_BASE
    note_quad 4, 0                      # PADDR_OFFSET
    note_quad 1, pv_start               # ENTRY
    note_quad 2, hypercall_page         # HYPERCALL_PAGE
    note 14                             # SUSPEND_CANCEL
    .long 1
2:
    note 18                             # PHYS32_ENTRY
    .long pvh_start
2:

# ---- PV: 64-bit, paging on, rsi = start_info, rsp = the builder's boot stack ----

.section .text.boot, "ax", @progbits
.code64
.globl pv_start
pv_start:
    cld
    mov %rsi, %rdi
    mov %rsp, %rsi
    mov $stack_top, %rsp
    xor %ebp, %ebp
    call pv_main
    ud2

# ---- PVH: 32-bit, paging off, ebx = start info ----

.code32
.globl pvh_start
pvh_start:
    cld
    mov %ebx, %esi
    mov $stack_top, %esp

    # Identity map of the first 4 GiB in 2 MiB pages: present, writable, large.
    mov $page_dirs, %edi
    mov $0x83, %eax
    mov $2048, %ecx
1:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b

    # One pointer entry for each of the four directories.
    mov $page_pointers, %edi
    mov $page_dirs + 3, %eax
    mov $4, %ecx
2:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 2b

    movl $page_pointers + 3, page_root
    movl $0, page_root + 4
    # The second 512 GiB slot is the window of the memory test.
    movl $window_pointers + 3, page_root + 8
    movl $0, page_root + 12
    movl $window_dir + 3, window_pointers
    movl $0, window_pointers + 4

    mov %cr4, %eax
    or $0x620, %eax                     # PAE, OSFXSR, OSXMMEXCPT
    mov %eax, %cr4
    mov $page_root, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx               # EFER
    rdmsr
    or $0x100, %eax                     # LME
    wrmsr
    mov %cr0, %eax
    and $0xfffffff3, %eax               # no EM, no TS: SSE may be used
    or $0x80000023, %eax                # PG, NE, MP, PE
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $pvh_long

.code64
pvh_long:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $stack_top, %rsp
    mov %esi, %edi
    xor %ebp, %ebp
    call pvh_main
    ud2

.section .rodata.boot, "a", @progbits
.balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 64-bit code
    .quad 0x00cf93000000ffff            # data
gdt_pointer:
    .word 23
    .long gdt
    .long 0

# ---- Exceptions: every one is fatal; the stubs only make the frames alike ----
# Frame given to trap_entry: vector, error code, rip, cs, rflags, rsp, ss.

.macro trap_stub kind, vector
.balign 16
    .ifc \kind, pv
    pop %rcx                            # Xen pushes rcx and r11 on top
    pop %r11
    .endif
    .if (\vector == 8) || ((\vector >= 10) && (\vector <= 14)) || (\vector == 17)
    .else
    push $0
    .endif
    push $\vector
    jmp trap_common
.endm

.section .text.traps, "ax", @progbits
.balign 16
.globl pv_trap_stubs
pv_trap_stubs:
    .irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19
    trap_stub pv, \vector
    .endr

.balign 16
.globl pvh_trap_stubs
pvh_trap_stubs:
    .irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19
    trap_stub pvh, \vector
    .endr

trap_common:
    cld
    mov %rsp, %rdi
    and $-16, %rsp
    call trap_entry
    ud2

# ---- Zeroed memory ----

.section .bss.boot, "aw", @nobits
.balign 4096
.globl hypercall_page
hypercall_page:     .skip 4096
page_root:          .skip 4096
page_pointers:      .skip 4096
page_dirs:          .skip 4 * 4096
window_pointers:    .skip 4096
.globl window_dir
window_dir:         .skip 4096
.globl bss_probe
bss_probe:          .skip 4096
stack:              .skip 65536
stack_top:
